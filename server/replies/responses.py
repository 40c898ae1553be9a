"""Answers as responses: an object that grows in a stream of typed events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from server.context import request_info
from server.errors import ApiError, api_error
from server.generation import Running
from server.replies.parts import AnswerParts, Kind, Part, PartEvent, arguments_in, reasoning_tokens
from server.response_input import INPUT, CalledTool, told_tools
from server.schemas.responses import (
    IncompleteDetails,
    InputTokensDetails,
    ItemStatus,
    OutputCall,
    OutputCustomCall,
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

_TOLD = {
    "instructions",
    "max_output_tokens",
    "previous_response_id",
    "prompt_cache_key",
    "safety_identifier",
    "temperature",
    "top_p",
    "user",
}
"""What the response repeats of the request."""
_PREFIXES = {"text": "msg", "call": "fc", "reasoning": "rs"}
_MORE: dict[Kind, dict[str, object]] = {"text": {"logprobs": []}, "call": {}, "reasoning": {}}
_CUSTOM = "response.custom_tool_call_input"
_DELTAS = {
    "text": "response.output_text",
    "call": "response.function_call_arguments",
    "reasoning": "response.reasoning_text",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answering:
    """An answer in the making.

    response: what it begins with; tools: those that may be called, by the names that the model calls; keep: what is
    done with it when it is whole.
    """

    response: ResponseObject
    running: Running
    tokenizer: Tokenizer
    tools: Mapping[str, CalledTool]
    keep: Callable[[ResponseObject], Awaitable[None]]

    async def whole(self) -> ResponseObject:
        """It, whole. Raises: ApiError, GenAIError."""
        return await self.finished(await AnswerParts(says_something=True).follow_to_the_end(self.running))

    async def finished(self, parts: AnswerParts) -> ResponseObject:
        """The response with all of its output, which is kept now."""
        is_called_off = parts.result.finish_reason == "cancelled"
        is_cut = parts.is_cut and not is_called_off
        usage = _usage(parts.result, await reasoning_tokens(parts.result, self.tokenizer))
        whole = self.response.model_copy(
            update={
                "status": "cancelled" if is_called_off else "incomplete" if is_cut else "completed",
                "incomplete_details": IncompleteDetails(reason="max_output_tokens") if is_cut else None,
                "output": self.output(parts, is_whole=not parts.is_cut),
                "usage": usage,
            }
        )
        await self.keep(whole)
        return whole

    def output(self, parts: AnswerParts, *, is_whole: bool) -> Sequence[OutputItem]:
        """The items; where the answer breaks off, it is in the last part."""
        last = len(parts.parts) - 1
        return [
            self.item(part, "completed" if is_whole or part.index != last else "incomplete") for part in parts.whole
        ]

    def is_custom(self, part: Part) -> bool:
        """Whether a part is the call of a tool that takes text."""
        return part.kind == "call" and part.name in self.tools and self.tools[part.name].is_custom

    def item(self, part: Part, status: ItemStatus) -> OutputItem:
        """A part as an item, as far as it is there."""
        item_id, text = self.item_id(part), part.text
        if part.kind == "reasoning":
            return OutputReasoning(id=item_id, content=[OutputReasoningText(text=text)], status=status)
        if part.kind == "text":
            return OutputMessage(id=item_id, content=[OutputText(text=text)], status=status)
        called = self.tools.get(part.name, CalledTool(name=part.name))
        told = {"id": item_id, "call_id": part.call_id, "name": called.name, "namespace": called.namespace}
        if called.is_custom:
            return OutputCustomCall.model_validate({**told, "input": custom_input(part), "status": status})
        return OutputCall.model_validate({**told, "arguments": text, "status": status})

    def item_id(self, part: Part) -> str:
        """The id of a part's item."""
        return f"{'ctc' if self.is_custom(part) else _PREFIXES[part.kind]}_{part.id}"


def custom_input(part: Part) -> str:
    """The text that a custom tool is called with; nothing until it is whole."""
    given = (arguments_in(part.text) or {}).get(INPUT, "")
    return given if isinstance(given, str) else part.text


def new_response(body: ResponsesRequest, model: str, *, is_kept: bool, mark: str = "") -> ResponseObject:
    """The response to a request, before anything of it is there. mark: what its id begins with."""
    config = body.text.model_dump(by_alias=True, exclude_none=True) if body.text else {}
    choice = body.tool_choice
    return ResponseObject(
        id=f"resp_{mark}{uuid.uuid4().hex}",
        created_at=int(time.time()),
        status="in_progress",
        metadata=body.metadata or {},
        model=model,
        output=[],
        parallel_tool_calls=body.parallel_tool_calls is not False,
        store=is_kept,
        text={"format": {"type": "text"}, **config},
        tool_choice=choice if isinstance(choice, str) else choice.model_dump() if choice else "auto",
        tools=told_tools(body),
        **body.model_dump(include=_TOLD),
    )


async def response_events(answering: Answering) -> AsyncGenerator[bytes, None]:
    """A response as events. Closing the generator ends the request."""
    teller, parts, response = _Teller(answering), AnswerParts(says_something=True), answering.response
    try:
        async with aclosing(parts.follow(answering.running)) as steps:
            async for step in steps:
                if not teller.is_begun:
                    yield teller.tell("response.created", response=response.model_dump())
                    yield teller.tell("response.in_progress", response=response.model_dump())
                for happened in step:
                    for data in teller.part(happened, "incomplete" if parts.is_cut else "completed"):
                        yield data
        whole = await answering.finished(parts)
        ended = "incomplete" if whole.status == "cancelled" else whole.status  # clients wait for one of three
        yield teller.tell(f"response.{ended}", response=whole.model_dump())
    except Exception as error:
        if not teller.is_begun:
            raise
        yield teller.failed(parts, api_error(error))


def response_error_event(error: ApiError, path: str) -> bytes:
    """How an error is told when a stream has begun, but nothing of the response has."""
    return _event("error", 0, code=error.code, message=error.message, param=error.param)


def _event(kind: str, number: int, **fields: object) -> bytes:
    data = {"type": kind, "sequence_number": number, **fields}
    return event(json.dumps(data, ensure_ascii=False, allow_nan=False), kind)


class _Teller:
    """Writes the events of an answer, and numbers them."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._number = 0

    @property
    def is_begun(self) -> bool:
        """Whether there was an event."""
        return self._number > 0

    def tell(self, kind: str, **fields: object) -> bytes:
        """One event."""
        self._number += 1
        return _event(kind, self._number - 1, **fields)

    def part(self, happened: PartEvent, status: ItemStatus) -> Iterator[bytes]:
        """What happens to a part. status: how it ends, if it does."""
        part = happened.part
        place = {"item_id": self._answering.item_id(part), "output_index": part.index}
        if part.kind != "call":
            place["content_index"] = 0
        if happened.what == "begin":
            yield from self._begin(part, place)
        elif happened.what == "end":
            yield from self._end(part, place, "incomplete" if part.is_broken else status)
        elif not self._answering.is_custom(part):
            yield self.tell(f"{_DELTAS[part.kind]}.delta", **place, delta=happened.piece, **_MORE[part.kind])

    def failed(self, parts: AnswerParts, error: ApiError) -> bytes:
        """The end of a response that failed in the middle."""
        request_info().error = error.code
        code: Literal["server_error", "invalid_prompt"] = "invalid_prompt" if error.status < 500 else "server_error"
        failure = {
            "status": "failed",
            "error": ResponseFailure(code=code, message=error.message),
            "output": self._answering.output(parts, is_whole=False),
        }
        return self.tell("response.failed", response=self._answering.response.model_copy(update=failure).model_dump())

    def _begin(self, part: Part, place: dict[str, object]) -> Iterator[bytes]:
        item = self._answering.item(part, "in_progress").model_dump()
        if part.kind == "call":
            yield self.tell("response.output_item.added", output_index=part.index, item=item)
            return
        (content,) = item["content"]
        yield self.tell("response.output_item.added", output_index=part.index, item={**item, "content": []})
        yield self.tell("response.content_part.added", **place, part=content)

    def _end(self, part: Part, place: dict[str, object], status: ItemStatus) -> Iterator[bytes]:
        item = self._answering.item(part, status).model_dump()
        kind = f"{_DELTAS[part.kind]}.done"
        if self._answering.is_custom(part):
            text = custom_input(part)  # it comes in one piece: until then it is JSON
            yield self.tell(f"{_CUSTOM}.delta", **place, delta=text)
            yield self.tell(f"{_CUSTOM}.done", **place, input=text)
        elif part.kind == "call":
            yield self.tell(kind, **place, name=part.name, arguments=part.text)
        else:
            (content,) = item["content"]
            yield self.tell(kind, **place, text=part.text, **_MORE[part.kind])
            yield self.tell("response.content_part.done", **place, part=content)
        yield self.tell("response.output_item.done", output_index=part.index, item=item)


def _usage(result: Generation, num_reasoning: int) -> ResponsesUsage:
    usage = result.usage
    return ResponsesUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(cached_tokens=usage.cached_tokens),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=num_reasoning),
        total_tokens=usage.prompt_tokens + usage.completion_tokens,
    )
