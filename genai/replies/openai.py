"""Results as OpenAI's API tells them: the choices and the usage of a `chat.completion` and a `text_completion`."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from genai.decoding.logprobs import TokenLogprob
    from genai.llm.results import Choice, Chunk, Generation
    from genai.tokenizer.tokenizer import Tokenizer

_LEAST_LOGPROB = -9999.0
"""What OpenAI's API tells instead of minus infinity, which JSON does not have."""


def finish_reason(reason: str) -> Literal["stop", "length"]:
    """Why a text ended: a deadline cuts it as a limit does."""
    return "stop" if reason == "stop" else "length"


def chat_finish_reason(reason: str, *, has_calls: bool) -> Literal["stop", "length", "tool_calls"]:
    """Why an answer ended."""
    told = finish_reason(reason)
    return "tool_calls" if has_calls and told == "stop" else told


def usage_of(results: Sequence[Generation]) -> dict[str, object]:
    """Tokens of all results together."""
    prompt = sum(result.usage.prompt_tokens for result in results)
    completion = sum(result.usage.completion_tokens for result in results)
    cached = sum(result.usage.cached_tokens for result in results)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def shown_logprobs(text: Choice | Chunk) -> Sequence[TokenLogprob] | None:
    """Log probabilities of the tokens that are text: the one that ends it is none."""
    return text.logprobs[:-1] if text.logprobs and text.has_end_token else text.logprobs


def chat_choice(choice: Choice, tokenizer: Tokenizer, **more: object) -> dict[str, object]:
    """An answer to a conversation; more: what its message and its log probabilities say besides."""
    calls = [
        {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
        for call in choice.tool_calls
    ]
    message = {"role": "assistant", "content": None if calls and not choice.text else choice.text, **more}
    if choice.reasoning:
        message["reasoning_content"] = choice.reasoning
    if calls:
        message["tool_calls"] = calls
    return {
        "index": choice.index,
        "message": message,
        "logprobs": chat_logprobs(shown_logprobs(choice), tokenizer, **more),
        "finish_reason": chat_finish_reason(choice.finish_reason, has_calls=bool(calls)),
    }


def chat_logprobs(
    entries: Sequence[TokenLogprob] | None, tokenizer: Tokenizer, **more: object
) -> dict[str, object] | None:
    """Log probabilities token by token; more: what they say besides."""
    if entries is None:
        return None

    def told(token_id: int, logprob: float) -> dict[str, object]:
        data = tokenizer.token_bytes(token_id)
        return {"token": token_text(data), "logprob": max(logprob, _LEAST_LOGPROB), "bytes": list(data)}

    content = [
        {**told(entry.token_id, entry.logprob), "top_logprobs": [told(*each) for each in entry.top]}
        for entry in entries
    ]
    return {"content": content, **more}


def completion_choices(
    result: Generation, tokenizer: Tokenizer, *, has_top: bool, first_index: int = 0, first_token: int = 0
) -> list[dict[str, object]]:
    """The texts that continue a prompt.

    has_top: whether likely other tokens are told; first_token: of the prompt, for where its log probabilities are told
    too: a first token has none.
    """
    prompt = [(entry.token_id if entry else first_token, entry) for entry in result.prompt_logprobs or ()]
    return [
        {
            "index": first_index + choice.index,
            "text": choice.text,
            "logprobs": None
            if (logprobs := shown_logprobs(choice)) is None
            else LogprobLists(tokenizer, has_top=has_top).told(logprobs, prompt),
            "finish_reason": finish_reason(choice.finish_reason),
        }
        for choice in result.choices
    ]


class LogprobLists:
    """One text's log probabilities in OpenAI's older form, lists side by side; told at once or piece by piece."""

    def __init__(self, tokenizer: Tokenizer, *, has_top: bool) -> None:
        self._tokenizer = tokenizer
        self._has_top = has_top
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def told(
        self, entries: Sequence[TokenLogprob], before: Sequence[tuple[int, TokenLogprob | None]] = ()
    ) -> dict[str, object]:
        """What the next tokens add; before: tokens in front of them, with None for one without a log probability."""
        both = [*before, *((entry.token_id, entry) for entry in entries)]
        tokens = [self._tokenizer.token_bytes(token_id) for token_id, _ in both]
        return {
            "tokens": [token_text(data) for data in tokens],
            "token_logprobs": [None if entry is None else max(entry.logprob, _LEAST_LOGPROB) for _, entry in both],
            "top_logprobs": [self._top(entry) for _, entry in both] if self._has_top else None,
            "text_offset": [self._next_offset(data) for data in tokens],
        }

    def _top(self, entry: TokenLogprob | None) -> dict[str, float] | None:
        """The likeliest tokens by their texts; of two with the same text the likelier one is told."""
        if entry is None:
            return None
        top: dict[str, float] = {}
        for token_id, logprob in entry.top:
            top.setdefault(token_text(self._tokenizer.token_bytes(token_id)), max(logprob, _LEAST_LOGPROB))
        return top

    def _next_offset(self, data: bytes) -> int:
        """Where a token begins: behind the characters that were whole before it."""
        offset = self._offset
        self._offset += len(self._characters.decode(data))
        return offset


def token_text(data: bytes) -> str:
    """A token's text, from its bytes, which may be part of a character."""
    return data.decode("utf-8", errors="replace")
