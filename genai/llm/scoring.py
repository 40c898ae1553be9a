"""How well documents answer a query, by a model that is asked for yes or no: Qwen3-Reranker, and others by its prompt.

The model is given a conversation for each document, and the score is what "yes" has of the probability of both words:

    system     Judge whether the Document meets the requirements … the answer can only be "yes" or "no".
    user       <Instruct>: …
               <Query>: …
               <Document>: …
    assistant  yes ─► p      no ─► 1 - p

Source: the model card of Qwen/Qwen3-Reranker-0.6B. What conversations of a query have in common is run once.
"""

from __future__ import annotations

import re
from collections import abc

import numpy as np

from genai.decoding.processors import FloatArray
from genai.engine.consumers import Read
from genai.errors import ConfigError, TaskError, TextTooLongError
from genai.llm.reading import Asked, ReadRequest, bounded, strings
from genai.tokenizer.tokenizer import Tokenizer

INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
"""What documents are looked for, where nobody says."""
_SYSTEM = (
    "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    'Note that the answer can only be "yes" or "no".'
)
_ANSWERS = ("yes", "no")
_INSTRUCT = re.compile(r"(<Instruct>: ).*")


class Scorer:
    """Asks one model, whose sequences have at most `max_seq_len` tokens. Any thread may.

    prompt: the model's own, with `{query}` and `{document}` in it; None: Qwen3-Reranker's, in the chat template.
    """

    def __init__(self, tokenizer: Tokenizer, max_seq_len: int, *, prompt: str | None = None) -> None:
        self._tokenizer = tokenizer
        self._prompt = prompt
        self._max_seq_len = max_seq_len

    def ask(
        self,
        query: str,
        documents: abc.Sequence[str],
        *,
        instruction: str | None = None,
        priority: int = 0,
        timeout: float | None = None,
        most_tokens: int | None = None,
    ) -> Asked:
        """A prompt for each document; their outcome is [N] float32. most_tokens: of all of them; None: any number.

        Raises: ConfigError, CapacityError, TokenizerError.
        """
        if not isinstance(query, str):
            raise ConfigError(f"query is {type(query).__name__}, not a string")
        texts = strings("documents", documents)
        if self._prompt is None and not self._tokenizer.has_chat_template:
            raise TaskError("this model cannot score: it has no chat template to ask it in")
        answers = [self._answer(word) for word in _ANSWERS]
        prompts = (self._tokens(f"documents[{index}]", instruction, query, text) for index, text in enumerate(texts))
        requests = [
            ReadRequest.of(tokens, Read(answers), priority, timeout) for tokens in bounded(prompts, most_tokens)
        ]
        return Asked(requests=requests, shaped=_probabilities)

    def _tokens(self, place: str, instruction: str | None, query: str, document: str) -> list[int]:
        """The conversation about a document. Raises: TextTooLongError, TokenizerError."""
        place = f"the prompt of {place}"
        if (beyond := self._tokenizer.num_beyond(query + document, self._max_seq_len)) is not None:
            raise TextTooLongError(beyond, self._max_seq_len, place, is_least=True)
        if self._prompt is not None:
            prompt = _filled(self._prompt, instruction, query, document)
            tokens = self._tokenizer.encode(prompt, add_special_tokens=False)
        else:
            question = f"<Instruct>: {instruction or INSTRUCTION}\n<Query>: {query}\n<Document>: {document}"
            messages = [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": question}]
            tokens = self._tokenizer.apply_chat_template(messages, enable_thinking=False)
        if len(tokens) > self._max_seq_len:
            raise TextTooLongError(len(tokens), self._max_seq_len, place)
        return tokens

    def _answer(self, word: str) -> int:
        """The token that an answer begins with. Raises: TaskError for a vocabulary that has no such word."""
        if (token := _token(self._tokenizer, word)) is None:
            raise TaskError(f"this model cannot score: its vocabulary has no token {word!r}")
        return token


def _filled(prompt: str, instruction: str | None, query: str, document: str) -> str:
    """A model's own prompt with what is asked. Raises: ConfigError for an instruction that it has no place for."""
    if instruction is not None:
        prompt, count = _INSTRUCT.subn(r"\1{instruction}", prompt, count=1)
        if not count:
            raise ConfigError("instruction: this model's own prompt has no place for one; leave it out")
    words = {"{query}": query, "{document}": document, "{instruction}": instruction or "{instruction}"}
    return re.sub(r"\{(query|document|instruction)\}", lambda place: words[place[0]], prompt)


def can_score(tokenizer: Tokenizer, prompt: str | None) -> bool:
    """Whether a model has a prompt of its own or a template to be asked in, and words to answer with."""
    return (prompt is not None or tokenizer.has_chat_template) and all(
        _token(tokenizer, word) is not None for word in _ANSWERS
    )


def _token(tokenizer: Tokenizer, word: str) -> int | None:
    spellings = (word, f"▁{word}")
    return next((token for each in spellings if (token := tokenizer.token_to_id(each)) is not None), None)


def _probabilities(logits: abc.Sequence[FloatArray]) -> FloatArray:
    """The share of the first of two tokens: [N] of N pairs of logits."""
    both = np.array(logits, np.float64).reshape(-1, 2)
    shares: FloatArray = (1 / (1 + np.exp(np.clip(both[:, 1] - both[:, 0], -700, 700)))).astype(np.float32)
    return shares
