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
    from genai.decoding.logprobs import TokenLogprob
    from genai.llm.results import Choice, Generation
    from genai.tokenizer.tokenizer import Tokenizer

_KIND = "text_completion"


def completion(
    head: Head,
    results: Sequence[Generation],
    tokenizer: Tokenizer,
    *,
    has_top: bool,
    first_tokens: Sequence[int] = (),
) -> bytes:
    """A whole reply's JSON.

    has_top: whether likely other tokens were asked for; first_tokens: those of the prompts, where their log
    probabilities are told too: a first token has none.
    """
    firsts = first_tokens or [0] * len(results)
    told = [
        (choice, _whole_logprobs(first, result, choice, LogprobLists(tokenizer, has_top=has_top)))
        for first, result in zip(firsts, results, strict=True)
        for choice in result.choices
    ]
    reply = Completion(
        id=head.id,
        created=head.created,
        model=head.model,
        system_fingerprint=head.system_fingerprint,
        choices=[
            CompletionChoice(
                index=index,
                text=choice.text,
                logprobs=logprobs,
                finish_reason=finish_reason(choice.finish_reason),
            )
            for index, (choice, logprobs) in enumerate(told)
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
    results: list[Generation] = []
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
        yield head.usage_event(_KIND, results)
    yield DONE


class LogprobLists:
    """One text's log probabilities as lists side by side, told all at once or piece by piece."""

    def __init__(self, tokenizer: Tokenizer, *, has_top: bool) -> None:
        self._tokenizer = tokenizer
        self._has_top = has_top
        self._characters = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._offset = 0

    def told(self, entries: Sequence[TokenLogprob]) -> CompletionLogprobs:
        """What the next tokens add."""
        return self.told_with([(entry.token_id, entry) for entry in entries])

    def told_with(self, entries: Sequence[tuple[int, TokenLogprob | None]]) -> CompletionLogprobs:
        """What the next tokens add; None for one without a log probability."""
        tokens = [token_text(self._tokenizer, token_id) for token_id, _ in entries]
        return CompletionLogprobs(
            tokens=[text for text, _ in tokens],
            token_logprobs=[None if entry is None else told_logprob(entry.logprob) for _, entry in entries],
            top_logprobs=[self._top(entry) for _, entry in entries] if self._has_top else None,
            text_offset=[self._next_offset(bytes(data)) for _, data in tokens],
        )

    def _top(self, entry: TokenLogprob | None) -> dict[str, float] | None:
        """The likeliest tokens by their texts; of two with the same text the likelier one is told."""
        if entry is None:
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


def _whole_logprobs(first: int, result: Generation, choice: Choice, lists: LogprobLists) -> CompletionLogprobs | None:
    """With `echo`, the prompt's tokens come before those of the text."""
    if choice.logprobs is None:
        return None
    prompt = [(entry.token_id if entry else first, entry) for entry in result.prompt_logprobs or ()]
    return lists.told_with([*prompt, *((entry.token_id, entry) for entry in choice.logprobs)])
