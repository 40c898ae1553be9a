"""Answers as Ollama tells them: lines of JSON, the last one with counts; calls come whole."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeAlias

from genai.replies.openai import finish_reason
from server.errors import ApiError
from server.generation import Running
from server.replies.common import rfc3339
from server.replies.parts import AnswerParts, Part, PartEvent, arguments_in
from server.schemas.ollama import OllamaCounts

if TYPE_CHECKING:
    from genai.llm.results import Generation

Fields: TypeAlias = dict[str, object]
Told: TypeAlias = Callable[[Fields], Fields]
"""How what is added to an answer is told: in a message, or beside a text."""


def in_message(added: Fields) -> Fields:
    """Of a conversation."""
    return {"message": {"role": "assistant", "content": "", **added}}


def beside_text(added: Fields) -> Fields:
    """Of a text: its own name for what is said."""
    return {"response": added.pop("content", ""), **added}


def line(fields: Fields) -> bytes:
    """One line of a stream."""
    return json.dumps(fields, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def ollama_shape(error: ApiError) -> Fields:
    """An error as Ollama's clients expect it."""
    return {"error": error.message}


def ollama_error_line(error: ApiError, path: str) -> bytes:
    """How an error in the middle of a stream is told."""
    return line(ollama_shape(error))


async def ollama_lines(model: str, running: Running, told: Told) -> AsyncGenerator[bytes, None]:
    """The pieces of a text, and its counts. Closing the generator ends the request."""
    parts = AnswerParts(says_something=False)
    async with aclosing(parts.follow(running)) as steps:
        async for step in steps:
            for what in step:
                if added := _added(what):
                    yield line(_head(model, done=False) | told(added))
    yield line(_head(model, done=True) | told({}) | counts_of(parts.result).model_dump())


def ollama_answer(model: str, parts: AnswerParts, told: Told) -> Fields:
    """A whole answer."""
    by_kind = {kind: [part for part in parts.whole if part.kind == kind] for kind in ("reasoning", "text", "call")}
    added: Fields = {"content": "".join(part.text for part in by_kind["text"])}
    if by_kind["reasoning"]:
        added["thinking"] = "".join(part.text for part in by_kind["reasoning"])
    if by_kind["call"]:
        added["tool_calls"] = [_call(part) for part in by_kind["call"]]
    return _head(model, done=True) | told(added) | counts_of(parts.result).model_dump()


def loaded_answer(model: str, told: Told) -> Fields:
    """The answer to who asked for nothing: the model is loaded."""
    return _head(model, done=True) | told({}) | {"done_reason": "load"}


def counts_of(result: Generation) -> OllamaCounts:
    """Tokens, and nanoseconds."""
    usage, timings = result.usage, result.timings
    return OllamaCounts(
        done_reason=finish_reason(result.finish_reason),
        total_duration=int(timings.total_seconds * 1e9),
        prompt_eval_count=usage.prompt_tokens,
        prompt_eval_duration=int(timings.prefill_seconds * 1e9),
        eval_count=usage.completion_tokens,
        eval_duration=int(timings.decode_seconds * 1e9),
    )


def _head(model: str, *, done: bool) -> Fields:
    return {"model": model, "created_at": rfc3339(time.time()), "done": done}


def _added(what: PartEvent) -> Fields:
    part = what.part
    if part.kind == "call":
        return {"tool_calls": [_call(part)]} if what.what == "end" and not part.is_broken else {}
    return {"thinking" if part.kind == "reasoning" else "content": what.piece} if what.piece else {}


def _call(part: Part) -> Fields:
    return {"id": part.call_id, "function": {"name": part.name, "arguments": arguments_in(part.text) or {}}}
