"""Texts to embeddings, by a model without a head: encoded as it wants them, pooled, cut and normalised.

text ─► prompt in front ─► tokens, special ones included ─► rows behind the final norm ─► one of them, or their mean
     ─► its first `dimensions` numbers ─► made one long, if the model's are
"""

from __future__ import annotations

from collections import abc
from functools import cached_property, partial
from typing import TypeAlias, cast

import numpy as np

from genai.config import EmbeddingConfig
from genai.decoding.processors import FloatArray
from genai.engine.consumers import Consumer, Pool, Read
from genai.errors import ConfigError, TextTooLongError
from genai.llm.prepare import are_tokens
from genai.llm.reading import Asked, ReadRequest, bounded
from genai.tokenizer.tokenizer import Tokenizer

_Text: TypeAlias = str | abc.Sequence[int]
Texts: TypeAlias = str | abc.Sequence[str] | abc.Sequence[abc.Sequence[int]]
_FORM = "texts are a string, a list of strings, or a list of lists of token ids, at least one"
_CHARACTERS = 16
"""Of a text that is cut, so many characters for each token that is kept are encoded first."""


class Embedder:
    """Prepares texts for one model. max_seq_len: its longest sequence; size: numbers of an embedding."""

    def __init__(self, tokenizer: Tokenizer, config: EmbeddingConfig, *, max_seq_len: int, size: int) -> None:
        self.config = config
        self.size = size
        self.max_tokens = min(max_seq_len, config.max_tokens or max_seq_len)
        self._tokenizer = tokenizer

    def ask(
        self,
        texts: Texts,
        *,
        dimensions: int | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate: bool = False,
        priority: int = 0,
        timeout: float | None = None,
        most_tokens: int | None = None,
    ) -> Asked:
        """A request for each text; their outcome is [N, H] float32. most_tokens: of all of them; None: any number.

        Raises: ConfigError, CapacityError, TokenizerError.
        """
        self._check_dimensions(dimensions)
        given = _as_list(texts)
        if not isinstance(given[0], str) and (prompt or prompt_name):
            raise ConfigError(f"{'prompt' if prompt else 'prompt_name'} goes with strings, not with token ids")
        front = self._front(prompt, prompt_name)
        whole = (front + each if isinstance(each, str) else each for each in given)
        prompts = (self._tokens(each, f"texts[{index}]", truncate) for index, each in enumerate(whole))
        requests = [
            ReadRequest.of(tokens, self._reader(), priority, timeout) for tokens in bounded(prompts, most_tokens)
        ]
        return Asked(requests=requests, shaped=partial(self._shaped, dimensions or self.size))

    def _tokens(self, given: _Text, place: str, truncate: bool) -> list[int]:
        """What is to be read of a text. Raises: ConfigError, TextTooLongError, TokenizerError."""
        tokens = self._encoded(given, place, truncate) if isinstance(given, str) else [int(token) for token in given]
        if not tokens:
            raise ConfigError(f"{place} has no tokens; give at least one")
        if len(tokens) <= self.max_tokens:
            return tokens
        if not truncate:
            raise TextTooLongError(len(tokens), self.max_tokens, place)
        ending = self._ending if isinstance(given, str) else []
        return tokens[: self.max_tokens - len(ending)] + ending

    def _reader(self) -> Consumer:
        return Read() if self.config.pooling == "last" else Pool(self.config.pooling)

    def _shaped(self, dimensions: int, values: abc.Sequence[FloatArray]) -> FloatArray:
        """[N, dimensions] of N vectors of the model's size."""
        vectors: FloatArray = np.stack(values)[:, :dimensions].astype(np.float32)
        if self.config.is_normalized:
            lengths = np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
            vectors = (vectors / np.maximum(lengths, 1e-12)).astype(np.float32)
        return vectors

    def _check_dimensions(self, dimensions: int | None) -> None:
        """Raises: ConfigError for a number to which embeddings cannot be cut."""
        if dimensions is None:
            return
        allowed = self.config.dimensions
        is_number = isinstance(dimensions, int) and not isinstance(dimensions, bool)
        if not is_number or not 1 <= dimensions <= self.size:
            raise ConfigError(f"dimensions={dimensions!r}: must be from 1 to {self.size}, the model's own")
        if allowed and dimensions not in (*allowed, self.size):
            listed = ", ".join(map(str, allowed))
            raise ConfigError(f"dimensions={dimensions}: this model's embeddings may be cut to {listed}")

    def _front(self, prompt: str | None, name: str | None) -> str:
        """What stands in front of each text. Raises: ConfigError for a name that the model does not have."""
        if prompt is not None and name is not None:
            raise ConfigError("prompt and prompt_name: one of them stands in front of the texts; leave one out")
        if prompt is not None:
            return prompt
        name = self.config.default_prompt if name is None else name
        if name is not None and name not in self.config.prompts:
            known = ", ".join(self.config.prompts) or "none: give the words themselves as prompt"
            raise ConfigError(f"prompt_name={str(name)[:80]!r}: this model's prompts are {known}")
        return self.config.prompts[name] if name is not None else ""

    def _encoded(self, text: str, place: str, truncate: bool) -> list[int]:
        """A text's tokens, its special ones included; of a long one that may be cut, more than there may be.

        Raises: TextTooLongError for a long one before all of it is encoded.
        """
        if truncate:
            return self._beginning(text)
        if (beyond := self._tokenizer.num_beyond(text, self.max_tokens)) is not None:
            raise TextTooLongError(beyond, self.max_tokens, place, is_least=True)
        return self._tokenizer.encode(text)

    def _beginning(self, text: str) -> list[int]:
        end = _CHARACTERS * self.max_tokens
        while end < len(text):
            tokens = self._tokenizer.encode(text[:end])
            if len(tokens) > self.max_tokens + _CHARACTERS:  # the last ones may be there only because of the cut
                return tokens
            end *= 2
        return self._tokenizer.encode(text)

    @cached_property
    def _ending(self) -> list[int]:
        """The special tokens that the tokenizer puts behind a text."""
        plain, whole = (self._tokenizer.encode("a", add_special_tokens=special) for special in (False, True))
        starts = (n for n in range(len(whole)) if whole[n : n + len(plain)] == plain)
        start = next(starts, None)
        return [] if start is None else whole[start + len(plain) :]


def _as_list(texts: object) -> list[_Text]:
    """Several texts, all strings or all lists of tokens. Raises: ConfigError."""
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, bytes) or not isinstance(texts, abc.Sequence | np.ndarray) or not len(texts):
        raise ConfigError(_FORM)
    is_text = isinstance(texts[0], str)
    for index, each in enumerate(texts):
        if is_text != isinstance(each, str) or not (is_text or are_tokens(each)):
            raise ConfigError(f"texts[{index}] is {type(each).__name__}: {_FORM}")
    return cast(list[_Text], list(texts))
