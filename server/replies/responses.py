"""Answers as responses: an object that grows in a stream of typed events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator, Iterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Literal

from server.context import request_info
from server.errors import ApiError, api_error
from server.generation import Running
from server.replies.parts import AnswerParts, Kind, Part, PartEvent, reasoning_tokens
from server.schemas.responses import (
    IncompleteDetails,
    InputTokensDetails,
    ItemStatus,
    OutputCall,
    OutputItem,
    OutputMessage,
    OutputReasoning,
    OutputReasoningText,
    OutputText,
    OutputTokensDetails,
    ResponseFailure,
    ResponseObject,
    ResponsesRequest,
    ResponsesUsage,
)
from server.sse import event

if TYPE_CHECKING:
    from genai.llm.results import Generation
    from genai.tokenizer.tokenizer import Tokenizer

_TOLD = {"instructions", "max_output_tokens", "temperature", "top_p", "user", "safety_identifier", "prompt_cache_key"}
"""What the response repeats of the request."""
_PREFIXES = {"text": "msg", "call": "fc", "reasoning": "rs"}
_MORE: dict[Kind, dict[str, object]] = {"text": {"logprobs": []}, "call": {}, "reasoning": {}}
_DELTAS = {
    "text": "response.output_text",
    "call": "response.function_call_arguments",
    "reasoning": "response.reasoning_text",
}


def new_response(body: ResponsesRequest, model: str) -> ResponseObject:
    """The response to a request, before anything of it is there."""
    config = body.text.model_dump(by_alias=True, exclude_none=True) if body.text else {}
    choice = body.tool_choice
    return ResponseObject(
        id=f"resp_{uuid.uuid4().hex}",
        created_at=int(time.time()),
        status="in_progress",
        metadata=body.metadata or {},
        model=model,
        output=[],
        parallel_tool_calls=body.parallel_tool_calls is not False,
        text={"format": {"type": "text"}, **config},
        tool_choice=choice if isinstance(choice, str) else choice.model_dump() if choice else "auto",
        tools=[tool.model_dump() for tool in body.tools or ()],
        **body.model_dump(include=_TOLD),
    )


async def finished_response(response: ResponseObject, parts: AnswerParts, tokenizer: Tokenizer) -> ResponseObject:
    """The response with all of its output."""
    return response.model_copy(
        update={
            "status": "incomplete" if parts.is_cut else "completed",
            "incomplete_details": IncompleteDetails(reason="max_output_tokens") if parts.is_cut else None,
            "output": _output(parts, is_whole=not parts.is_cut),
            "usage": _usage(parts.result, await reasoning_tokens(parts.result, tokenizer)),
        }
    )


async def response_events(
    response: ResponseObject, running: Running, tokenizer: Tokenizer
) -> AsyncGenerator[bytes, None]:
    """A response as events. Closing the generator ends the request."""
    teller, parts = _Teller(), AnswerParts(says_something=True)
    try:
        async with aclosing(parts.follow(running)) as steps:
            async for step in steps:
                if not teller.is_begun:
                    yield teller.tell("response.created", response=response.model_dump())
                    yield teller.tell("response.in_progress", response=response.model_dump())
                for happened in step:
                    for data in teller.part(happened, "incomplete" if parts.is_cut else "completed"):
                        yield data
        whole = await finished_response(response, parts, tokenizer)
        yield teller.tell(f"response.{whole.status}", response=whole.model_dump())
    except Exception as error:
        if not teller.is_begun:
            raise
        yield teller.failed(response, parts, api_error(error))


def response_error_event(error: ApiError, path: str) -> bytes:
    """How an error is told when a stream has begun, but nothing of the response has."""
    return _Teller().tell("error", code=error.code, message=error.message, param=error.param)


class _Teller:
    """Writes events, and numbers them."""

    def __init__(self) -> None:
        self._number = 0

    @property
    def is_begun(self) -> bool:
        """Whether there was an event."""
        return self._number > 0

    def tell(self, kind: str, **fields: object) -> bytes:
        """One event."""
        data = {"type": kind, "sequence_number": self._number, **fields}
        self._number += 1
        return event(json.dumps(data, ensure_ascii=False, allow_nan=False), kind)

    def part(self, happened: PartEvent, status: ItemStatus) -> Iterator[bytes]:
        """What happens to a part. status: how it ends, if it does."""
        part = happened.part
        place = {"item_id": _item_id(part), "output_index": part.index}
        if part.kind != "call":
            place["content_index"] = 0
        if happened.what == "begin":
            yield from self._begin(part, place)
        elif happened.what == "end":
            yield from self._end(part, place, "incomplete" if part.is_broken else status)
        else:
            yield self.tell(f"{_DELTAS[part.kind]}.delta", **place, delta=happened.piece, **_MORE[part.kind])

    def failed(self, response: ResponseObject, parts: AnswerParts, error: ApiError) -> bytes:
        """The end of a response that failed in the middle."""
        request_info().error = error.code
        code: Literal["server_error", "invalid_prompt"] = "invalid_prompt" if error.status < 500 else "server_error"
        failure = {
            "status": "failed",
            "error": ResponseFailure(code=code, message=error.message),
            "output": _output(parts, is_whole=False),
        }
        return self.tell("response.failed", response=response.model_copy(update=failure).model_dump())

    def _begin(self, part: Part, place: dict[str, object]) -> Iterator[bytes]:
        item = _item(part, "in_progress").model_dump()
        if part.kind == "call":
            yield self.tell("response.output_item.added", output_index=part.index, item=item)
            return
        (content,) = item["content"]
        yield self.tell("response.output_item.added", output_index=part.index, item={**item, "content": []})
        yield self.tell("response.content_part.added", **place, part=content)

    def _end(self, part: Part, place: dict[str, object], status: ItemStatus) -> Iterator[bytes]:
        item = _item(part, status).model_dump()
        kind = f"{_DELTAS[part.kind]}.done"
        if part.kind == "call":
            yield self.tell(kind, **place, name=part.name, arguments=part.text)
        else:
            (content,) = item["content"]
            yield self.tell(kind, **place, text=part.text, **_MORE[part.kind])
            yield self.tell("response.content_part.done", **place, part=content)
        yield self.tell("response.output_item.done", output_index=part.index, item=item)


def _output(parts: AnswerParts, *, is_whole: bool) -> Sequence[OutputItem]:
    """The items; where the answer breaks off, it is in the last part."""
    last = len(parts.parts) - 1
    return [_item(part, "completed" if is_whole or part.index != last else "incomplete") for part in parts.whole]


def _item(part: Part, status: ItemStatus) -> OutputItem:
    """A part as an item, as far as it is there."""
    item_id, text = _item_id(part), part.text
    if part.kind == "call":
        return OutputCall(id=item_id, call_id=part.call_id, name=part.name, arguments=text, status=status)
    if part.kind == "reasoning":
        return OutputReasoning(id=item_id, content=[OutputReasoningText(text=text)], status=status)
    return OutputMessage(id=item_id, content=[OutputText(text=text)], status=status)


def _item_id(part: Part) -> str:
    return f"{_PREFIXES[part.kind]}_{part.id}"


def _usage(result: Generation, num_reasoning: int) -> ResponsesUsage:
    usage = result.usage
    return ResponsesUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=usage.cached_tokens),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=num_reasoning),
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )
