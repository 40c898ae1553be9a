"""Texts as plain completions."""

from __future__ import annotations

import codecs
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from server.generation import Running
from server.replies.common import Head, finish_reason, timings_of, token_text, told_logprob, usage_of
from server.schemas.completions import Completion, CompletionChoice, CompletionLogprobs
from server.sse import DONE

if TYPE_CHECKING:
    from genai import writer
    from genai.text.tokenizer import Tokenizer

_KIND = "text_completion"


def completion(head: Head, results: Sequence[writer.Generation], tokenizer: Tokenizer, *, has_top: bool) -> bytes:
    """A whole reply's JSON. has_top: whether likely other tokens were asked for."""
    choices = [(result, choice) for result in results for choice in result.choices]
    reply = Completion(
        id=head.id,
        created=head.created,
        model=head.model,
        system_fingerprint=head.system_fingerprint,
        choices=[
            CompletionChoice(
                index=index,
                text=choice.text,
                logprobs=_whole_logprobs(result, choice, tokenizer, has_top=has_top),
                finish_reason=finish_reason(choice.finish_reason),
            )
            for index, (result, choice) in enumerate(choices)
        ],
        usage=usage_of(results),
        timings=timings_of(results),
    )
    return reply.model_dump_json().encode()


async def completion_events(
    head: Head, running: Running, tokenizer: Tokenizer, *, num_choices: int, has_top: bool, has_usage: bool
) -> AsyncGenerator[bytes, None]:
    """A reply as events. num_choices: texts of each prompt. Closing the generator ends the request."""
    logprobs: dict[int, LogprobLists] = {}
    results: list[writer.Generation] = []
    more: dict[str, object] = {"usage": None} if has_usage else {}
    async with aclosing(running.chunks()) as pieces:
        async for number, chunk in pieces:
            index = number * num_choices + chunk.index
            told = None
            if chunk.logprobs is not None:
                lists = logprobs.setdefault(index, LogprobLists(tokenizer, has_top=has_top))
                told = lists.told(chunk.logprobs).model_dump()
            reason = finish_reason(chunk.finish_reason) if chunk.finish_reason else None
            if chunk.text or reason or told:
                choice = {"index": index, "text": chunk.text, "logprobs": told, "finish_reason": reason}
                yield head.event(_KIND, [choice], **more)
            if chunk.result is not None:
                results.append(chunk.result)
    if has_usage:
        yield head.event(_KIND, [], usage=usage_of(results).model_dump(), timings=timings_of(results).model_dump())
    yield DONE


class LogprobLists:
    """One text's log probabilities as lists side by side, told all at once or piece by piece."""

    def __init__(self, tokenizer: Tokenizer, *, has_top: bool) -> None:
        self._tokenizer = tokenizer
        self._has_top = has_top
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def told(self, entries: Sequence[writer.TokenLogprob]) -> CompletionLogprobs:
        """What the next tokens add."""
        tokens = [token_text(self._tokenizer, entry.token_id) for entry in entries]
        return CompletionLogprobs(
            tokens=[text for text, _ in tokens],
            token_logprobs=[None if entry.logprob is None else told_logprob(entry.logprob) for entry in entries],
            top_logprobs=[self._top(entry) for entry in entries] if self._has_top else None,
            text_offset=[self._next_offset(bytes(data)) for _, data in tokens],
        )

    def _top(self, entry: writer.TokenLogprob) -> dict[str, float] | None:
        """The likeliest tokens by their texts; of two with the same text the likelier one is told."""
        if entry.logprob is None:
            return None
        top: dict[str, float] = {}
        for token_id, logprob in entry.top:
            top.setdefault(token_text(self._tokenizer, token_id)[0], told_logprob(logprob))
        return top

    def _next_offset(self, data: bytes) -> int:
        """Where a token begins: behind the characters that were whole before it."""
        offset = self._offset
        self._offset += len(self._characters.decode(data))
        return offset


def _whole_logprobs(
    result: writer.Generation, choice: writer.Choice, tokenizer: Tokenizer, *, has_top: bool
) -> CompletionLogprobs | None:
    """With `echo`, the prompt's tokens come first."""
    if choice.logprobs is None:
        return None
    return LogprobLists(tokenizer, has_top=has_top).told([*(result.prompt_logprobs or ()), *choice.logprobs])
