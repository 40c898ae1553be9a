"""Answers as chat completions."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING

from server.generation import Running
from server.replies.common import Head, finish_reason, timings_of, token_text, told_logprob, usage_of
from server.schemas.chat import (
    AnswerMessage,
    ChatChoice,
    ChatCompletion,
    ChoiceLogprobs,
    FunctionCall,
    TokenLogprob,
    ToolCall,
    TopLogprob,
)
from server.schemas.generation import FinishReason
from server.sse import DONE

if TYPE_CHECKING:
    from genai.answer.tool_calls import ToolCallDelta
    from genai.decoding.logprobs import TokenLogprob as Scored
    from genai.llm import results
    from genai.tokenizer.tokenizer import Tokenizer

_ALWAYS = ("role", "content", "refusal")
_CHUNK = "chat.completion.chunk"


def chat_completion(head: Head, result: results.Generation, tokenizer: Tokenizer) -> bytes:
    """A whole reply's JSON."""
    reply = ChatCompletion(
        id=head.id,
        created=head.created,
        model=head.model,
        system_fingerprint=head.system_fingerprint,
        choices=[_choice(choice, tokenizer) for choice in result.choices],
        usage=usage_of([result]),
        timings=timings_of([result]),
    ).model_dump()
    for choice in reply["choices"]:
        choice["message"] = {name: value for name, value in choice["message"].items() if name in _ALWAYS or value}
    return json.dumps(reply, ensure_ascii=False, allow_nan=False).encode()


async def chat_events(
    head: Head, running: Running, tokenizer: Tokenizer, *, has_usage: bool
) -> AsyncGenerator[bytes, None]:
    """A reply as events. Closing the generator ends the request."""
    begun: set[int] = set()
    calling: set[int] = set()
    more: dict[str, object] = {"usage": None} if has_usage else {}
    async with aclosing(running.chunks()) as pieces:
        async for _, chunk in pieces:
            delta: dict[str, object] = {}
            if chunk.index not in begun:
                begun.add(chunk.index)
                delta = {"role": "assistant", "content": ""}
            delta |= _delta(chunk)
            if chunk.tool_calls:
                calling.add(chunk.index)
            reason = _reason(chunk.finish_reason, chunk.index in calling) if chunk.finish_reason else None
            if delta or reason or chunk.logprobs:
                logprobs = _logprobs(chunk.logprobs, tokenizer)
                choice = {
                    "index": chunk.index,
                    "delta": delta,
                    "logprobs": logprobs.model_dump() if logprobs else None,
                    "finish_reason": reason,
                }
                yield head.event(_CHUNK, [choice], **more)
            if chunk.result is not None and has_usage:
                yield head.usage_event(_CHUNK, [chunk.result])
    yield DONE


def _delta(chunk: results.Chunk) -> dict[str, object]:
    delta: dict[str, object] = {}
    if chunk.text:
        delta["content"] = chunk.text
    if chunk.reasoning:
        delta["reasoning_content"] = chunk.reasoning
    if chunk.tool_calls:
        delta["tool_calls"] = [_call_delta(call) for call in chunk.tool_calls]
    return delta


def _call_delta(call: ToolCallDelta) -> dict[str, object]:
    """A piece of a call: what names it comes once."""
    function: dict[str, object] = {"arguments": call.arguments}
    if call.name is not None:
        function["name"] = call.name
    named = {"id": call.id, "type": "function"} if call.id is not None else {}
    return {"index": call.index, **named, "function": function}


def _choice(choice: results.Choice, tokenizer: Tokenizer) -> ChatChoice:
    calls = [
        ToolCall(id=call.id, function=FunctionCall(name=call.name, arguments=call.arguments))
        for call in choice.tool_calls
    ]
    message = AnswerMessage(
        content=None if calls and not choice.text else choice.text,
        reasoning_content=choice.reasoning or None,
        tool_calls=calls or None,
    )
    return ChatChoice(
        index=choice.index,
        message=message,
        logprobs=_logprobs(choice.logprobs, tokenizer),
        finish_reason=_reason(choice.finish_reason, bool(calls)),
    )


def _reason(reason: str, has_calls: bool) -> FinishReason:
    told = finish_reason(reason)
    return "tool_calls" if has_calls and told == "stop" else told


def _logprobs(logprobs: Sequence[Scored] | None, tokenizer: Tokenizer) -> ChoiceLogprobs | None:
    if logprobs is None:
        return None
    return ChoiceLogprobs(content=[_token(each, tokenizer) for each in logprobs])


def _token(entry: Scored, tokenizer: Tokenizer) -> TokenLogprob:
    text, data = token_text(tokenizer, entry.token_id)
    top = [_top(token_id, logprob, tokenizer) for token_id, logprob in entry.top]
    return TokenLogprob(token=text, logprob=told_logprob(entry.logprob), bytes=data, top_logprobs=top)


def _top(token_id: int, logprob: float, tokenizer: Tokenizer) -> TopLogprob:
    text, data = token_text(tokenizer, token_id)
    return TopLogprob(token=text, logprob=told_logprob(logprob), bytes=data)
