"""Texts as plain completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from genai.replies.openai import LogprobLists, completion_choices, finish_reason, shown_logprobs
from server.generation import Running
from server.replies.common import Head, counts_of
from server.sse import DONE

if TYPE_CHECKING:
    from genai.llm.results import Generation
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
    choices: list[dict[str, object]] = []
    for first, result in zip(first_tokens or [0] * len(results), results, strict=True):
        choices += completion_choices(result, tokenizer, has_top=has_top, first_index=len(choices), first_token=first)
    return head.json(_KIND, choices, **counts_of(results)).encode()


async def completion_events(
    head: Head, running: Running, tokenizer: Tokenizer, *, num_choices: int, has_top: bool, has_usage: bool
) -> AsyncGenerator[bytes, None]:
    """A reply as events: pieces, and why a text ended, each for itself. Closing the generator ends the request.

    num_choices: texts of each prompt.
    """
    lists: dict[int, LogprobLists] = {}
    results: list[Generation] = []
    more: dict[str, object] = {"usage": None} if has_usage else {}

    def told(index: int, **fields: object) -> bytes:
        choice = {"index": index, "text": "", "logprobs": None, "finish_reason": None, **fields}
        return head.event(_KIND, [choice], **more)

    async with aclosing(running.chunks()) as pieces:
        async for number, chunk in pieces:
            index = number * num_choices + chunk.index
            if logprobs := shown_logprobs(chunk):
                known = lists.setdefault(index, LogprobLists(tokenizer, has_top=has_top))
                yield told(index, text=chunk.text, logprobs=known.told(logprobs))
            elif chunk.text:
                yield told(index, text=chunk.text)
            if chunk.finish_reason:
                yield told(index, finish_reason=finish_reason(chunk.finish_reason))
            if chunk.result is not None:
                results.append(chunk.result)
    if has_usage:
        yield head.event(_KIND, [], **counts_of(results))
    yield DONE
