"""A generation for people and for scripts."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from genai import Choice, Chunk, Generation, TokenLogprob
    from genai.tokenizer.tokenizer import Tokenizer

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"

_ENDINGS = {"length": ", cut off by the token limit", "timeout": ", cut off by the time limit"}


def summary(result: Generation) -> str:
    """One line: time to first token, speed, and how many tokens went in and came out."""
    usage, timings = result.usage, result.timings
    cached = f" ({usage.cached_tokens} from the cache)" if usage.cached_tokens else ""
    drafts = result.drafts
    drafted = (
        f", {drafts.num_accepted} of {drafts.num_drafted} drafted tokens came true"
        if drafts and drafts.num_drafted
        else ""
    )
    return (
        f"first token after {timings.time_to_first_token:.2f} s, {timings.tokens_per_second:.1f} tokens/s; "
        f"{usage.prompt_tokens} prompt tokens{cached}, {usage.completion_tokens} new{drafted}"
        f"{_ENDINGS.get(result.finish_reason, '')}"
    )


class Screen:
    """Prints texts: on standard output, and reasoning, which is no part of them, on standard error."""

    def __init__(self) -> None:
        self._is_thinking = False

    def write(self, chunk: Chunk) -> None:
        """A piece, at once; calls of tools with the last one, a line of JSON each."""
        self._write(chunk.text, chunk.reasoning)
        if chunk.result is not None:
            self._end(chunk.result.choices[0])

    def write_choice(self, choice: Choice) -> None:
        """A whole text."""
        self._write("", choice.reasoning)
        self._write(choice.text, "")
        self._end(choice)

    def _write(self, text: str, reasoning: str) -> None:
        if reasoning:
            sys.stderr.write(f"\x1b[2m{reasoning}\x1b[0m" if sys.stderr.isatty() else reasoning)
            sys.stderr.flush()
            self._is_thinking = True
        if text:
            self._end_reasoning()
            sys.stdout.write(text)
            sys.stdout.flush()

    def _end(self, choice: Choice) -> None:
        self._end_reasoning()
        if choice.text or not choice.tool_calls:
            print()
        for call in choice.tool_calls:
            print(json.dumps({"name": call.name, "arguments": json.loads(call.arguments)}, ensure_ascii=False))

    def _end_reasoning(self) -> None:
        if self._is_thinking:
            print(file=sys.stderr)
        self._is_thinking = False


def as_json(result: Generation, tokenizer: Tokenizer) -> dict[str, JSON]:
    """All of a result as JSON: the first text, then every text under `choices`; times are in seconds.

    What was not asked for (log probabilities, drafts) is left out.
    """
    choices: list[JSON] = [_choice(choice, tokenizer) for choice in result.choices]
    first = _choice(result.choices[0], tokenizer)
    told: dict[str, JSON] = {
        **{name: value for name, value in first.items() if name != "index"},
        "choices": choices,
        "usage": dataclasses.asdict(result.usage),
        "timings": dataclasses.asdict(result.timings),
        "prompt_logprobs": _logprobs(result.prompt_logprobs, tokenizer),
        "drafts": None if result.drafts is None else dataclasses.asdict(result.drafts),
    }
    return {name: value for name, value in told.items() if value is not None}


def _choice(choice: Choice, tokenizer: Tokenizer) -> dict[str, JSON]:
    told: dict[str, JSON] = {
        "index": choice.index,
        "text": choice.text,
        "token_ids": list(choice.token_ids),
        "finish_reason": choice.finish_reason,
        "stop_string": choice.stop_string,
        "reasoning": choice.reasoning or None,
        "tool_calls": [dataclasses.asdict(call) for call in choice.tool_calls] or None,
        "score": choice.score,
        "logprobs": _logprobs(choice.logprobs, tokenizer),
    }
    return {name: value for name, value in told.items() if value is not None}


def _logprobs(entries: Iterable[TokenLogprob | None] | None, tokenizer: Tokenizer) -> JSON:
    return None if entries is None else [None if each is None else _logprob(each, tokenizer) for each in entries]


def _logprob(entry: TokenLogprob, tokenizer: Tokenizer) -> dict[str, JSON]:
    top: list[JSON] = [{**_token(token, tokenizer), "logprob": logprob} for token, logprob in entry.top]
    return {**_token(entry.token_id, tokenizer), "logprob": entry.logprob, "top": top}


def _token(token_id: int, tokenizer: Tokenizer) -> dict[str, JSON]:
    return {"token_id": token_id, "token": tokenizer.token_bytes(token_id).decode("utf-8", errors="replace")}
