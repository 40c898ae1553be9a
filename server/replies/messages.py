"""Answers as messages: blocks, whole or in a stream of typed events; and errors as Anthropic's clients expect them."""

from __future__ import annotations

import json
import uuid
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING, cast

from genai.errors import PromptTooLongError
from genai.requests.base import JsonObject
from server.context import request_info
from server.errors import ApiError, error_json
from server.generation import Running
from server.replies.parts import AnswerParts, Kind, Part, PartEvent, arguments_in, reasoning_tokens
from server.schemas.messages import (
    AnswerBlock,
    AnswerMessage,
    AnswerText,
    AnswerThinking,
    AnswerToolUse,
    MessagesError,
    MessagesErrorDetail,
    MessagesUsage,
    StopReason,
    ThinkingDetails,
)
from server.sse import event

if TYPE_CHECKING:
    from genai.tokenizer.tokenizer import Tokenizer
    from server.schemas.messages import MessagesRequest

_ERROR_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
_DELTAS: dict[Kind, tuple[str, str]] = {
    "text": ("text_delta", "text"),
    "call": ("input_json_delta", "partial_json"),
    "reasoning": ("thinking_delta", "thinking"),
}


def anthropic_shape(error: ApiError) -> dict[str, object]:
    """An error as Anthropic's clients expect it."""
    kind = _ERROR_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    message, cause = error.message, error.cause
    if isinstance(cause, PromptTooLongError):  # agents look for these words, and send less
        message = f"prompt is too long: {cause.num_tokens} tokens > {cause.most} maximum"
    detail = MessagesErrorDetail(type=kind, message=message)
    return MessagesError(error=detail, request_id=request_info().id).model_dump()


def message_error_event(error: ApiError, path: str) -> bytes:
    """How an error in the middle of a stream is told."""
    return event(error_json(error, path).decode(), "error")


def new_message(model: str) -> AnswerMessage:
    """An answer of which nothing is there yet."""
    return AnswerMessage(
        id=f"msg_{uuid.uuid4().hex}",
        model=model,
        content=[],
        stop_reason=None,
        stop_sequence=None,
        usage=_usage(0, 0),
    )


async def finished_message(
    message: AnswerMessage, body: MessagesRequest, parts: AnswerParts, tokenizer: Tokenizer
) -> AnswerMessage:
    """The answer with all of its content."""
    result = parts.result
    stop = result.choices[0].stop_string
    return message.model_copy(
        update={
            "content": [_block(part) for part in parts.whole],
            "stop_reason": "stop_sequence" if stop else _stop_reason(body, parts),
            "stop_sequence": stop,
            "usage": _usage(
                result.usage.prompt_tokens,
                result.usage.cached_tokens,
                num_new=result.usage.completion_tokens,
                num_thinking=await reasoning_tokens(result, tokenizer),
            ),
        }
    )


async def message_events(
    message: AnswerMessage, body: MessagesRequest, running: Running, tokenizer: Tokenizer
) -> AsyncGenerator[bytes, None]:
    """An answer as events. Closing the generator ends the request."""
    parts, is_begun = AnswerParts(says_something=False), False
    async with aclosing(parts.follow(running)) as steps:
        async for step in steps:
            if not is_begun:
                is_begun = True
                begun = message.model_copy(update={"usage": _usage(*running.prompt_tokens)})
                yield _event("message_start", message=begun.model_dump())
                yield _event("ping")
            for happened in step:
                yield _told(happened)
    whole = await finished_message(message, body, parts, tokenizer)
    delta = {"stop_reason": whole.stop_reason, "stop_sequence": whole.stop_sequence}
    yield _event("message_delta", delta=delta, usage=whole.usage.model_dump())
    yield _event("message_stop")


def _event(kind: str, **fields: object) -> bytes:
    return event(json.dumps({"type": kind, **fields}, ensure_ascii=False, allow_nan=False), kind)


def _told(happened: PartEvent) -> bytes:
    """What happens to a part, as an event about its block."""
    part = happened.part
    if happened.what == "begin":
        return _event("content_block_start", index=part.index, content_block=_block(part).model_dump())
    if happened.what == "end":
        return _event("content_block_stop", index=part.index)
    kind, name = _DELTAS[part.kind]
    return _event("content_block_delta", index=part.index, delta={"type": kind, name: happened.piece})


def _block(part: Part) -> AnswerBlock:
    """A part as a block, as far as it is there."""
    if part.kind == "call":
        given = cast(JsonObject, arguments_in(part.text) or {})
        return AnswerToolUse(id=part.call_id, name=part.name, input=given)
    return AnswerThinking(thinking=part.text) if part.kind == "reasoning" else AnswerText(text=part.text)


def _stop_reason(body: MessagesRequest, parts: AnswerParts) -> StopReason:
    """Why the text ended, if not by a stop sequence. A deadline cuts it as a limit does."""
    if not parts.is_cut:
        return "tool_use" if parts.has_call else "end_turn"
    result = parts.result
    is_full = result.finish_reason == "length" and len(result.token_ids) < body.max_tokens
    return "model_context_window_exceeded" if is_full else "max_tokens"


def _usage(num_prompt: int, num_cached: int, *, num_new: int = 0, num_thinking: int = 0) -> MessagesUsage:
    return MessagesUsage(
        input_tokens=num_prompt - num_cached,
        cache_read_input_tokens=num_cached,
        output_tokens=num_new,
        output_tokens_details=ThinkingDetails(thinking_tokens=num_thinking),
    )
