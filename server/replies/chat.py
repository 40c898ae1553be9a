"""Answers as chat completions."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

from genai.replies.openai import chat_choice, chat_finish_reason, chat_logprobs, shown_logprobs
from server.generation import Running
from server.replies.common import Head, counts_of
from server.sse import DONE

if TYPE_CHECKING:
    from genai.answer.tool_calls import ToolCallDelta
    from genai.llm import results
    from genai.tokenizer.tokenizer import Tokenizer

_CHUNK = "chat.completion.chunk"
_NEVER: dict[str, object] = {"refusal": None}
"""What this API tells besides what it is told of an answer: models here do not mark refusals."""


def chat_completion(head: Head, result: results.Generation, tokenizer: Tokenizer) -> bytes:
    """A whole reply's JSON."""
    choices = [chat_choice(choice, tokenizer, **_NEVER) for choice in result.choices]
    return head.json("chat.completion", choices, **counts_of([result])).encode()


async def chat_events(
    head: Head, running: Running, tokenizer: Tokenizer, *, has_usage: bool
) -> AsyncGenerator[bytes, None]:
    """A reply as events: role, pieces, and why it ended, each for itself. Closing the generator ends the request."""
    begun: set[int] = set()
    calling: set[int] = set()
    more: dict[str, object] = {"usage": None} if has_usage else {}

    def told(chunk: results.Chunk, delta: dict[str, object], **fields: object) -> bytes:
        choice = {"index": chunk.index, "delta": delta, "logprobs": None, "finish_reason": None, **fields}
        return head.event(_CHUNK, [choice], **more)

    async with aclosing(running.chunks()) as pieces:
        async for _, chunk in pieces:
            if chunk.index not in begun:
                begun.add(chunk.index)
                yield told(chunk, {"role": "assistant", "content": ""})
            delta, logprobs = _delta(chunk), shown_logprobs(chunk)
            if delta or logprobs:
                yield told(chunk, delta, logprobs=chat_logprobs(logprobs, tokenizer, **_NEVER))
            if chunk.tool_calls:
                calling.add(chunk.index)
            if chunk.finish_reason:
                reason = chat_finish_reason(chunk.finish_reason, has_calls=chunk.index in calling)
                yield told(chunk, {}, finish_reason=reason)
            if chunk.result is not None and has_usage:
                yield head.event(_CHUNK, [], **counts_of([chunk.result]))
    yield DONE


def _delta(chunk: results.Chunk) -> dict[str, object]:
    calls = [_call_delta(call) for call in chunk.tool_calls]
    added = {"content": chunk.text, "reasoning_content": chunk.reasoning, "tool_calls": calls}
    return {name: value for name, value in added.items() if value}


def _call_delta(call: ToolCallDelta) -> dict[str, object]:
    """A piece of a call: what names it comes once."""
    function: dict[str, object] = {"arguments": call.arguments}
    if call.name is not None:
        function["name"] = call.name
    named = {"id": call.id, "type": "function"} if call.id is not None else {}
    return {"index": call.index, **named, "function": function}
