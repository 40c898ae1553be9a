"""`/v1/responses`: OpenAI's Responses API, for text; answers are kept for a while, unless they are not to be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from functools import partial
from typing import Annotated

from fastapi import APIRouter, Path
from starlette.requests import Request
from starlette.responses import Response

from genai.requests.chat import ChatArguments, JsonObjectFormat, format_options
from server.body import StrictRoute
from server.errors import unless_gone
from server.generation import Work, start
from server.openapi import GENERATING, KEYED, errors, streaming
from server.replies.responses import Answering, new_response, response_error_event, response_events
from server.response_input import called_tools, choice, conversation, functions
from server.schemas.response_items import InputItem, InputMessage
from server.schemas.responses import DeletedResponse, JsonSchemaText, ResponseObject, ResponsesRequest
from server.settings import Settings
from server.state import ServerState, State

router = APIRouter(tags=["generation"], route_class=StrictRoute)

_RENAMED = {"response_format": "text.format", "max_tokens": "max_output_tokens"}
_ANSWER = streaming(
    ResponseObject,
    "typed events, from `response.created` to `response.completed`, `response.incomplete` or `response.failed`.",
)
_KEPT = KEYED | errors(404)
_ID = Annotated[str, Path(description="The id of an answer that is kept, or is being written.")]


@router.post("/v1/responses", responses=GENERATING | _ANSWER)
async def responses(body: ResponsesRequest, request: Request, state: State) -> Response:
    """Answer a conversation."""
    new = [InputMessage(role="user", content=body.input)] if isinstance(body.input, str) else body.input
    items = await state.responses.behind(body.previous_response_id, new)
    work = await asyncio.to_thread(_work, body, items, state.settings)  # grammars take a moment
    model = await state.models.get(body.model)
    is_kept = body.store is not False and state.settings.kept_responses_bytes > 0
    answering = Answering(
        response=new_response(body, model.asked_name, is_kept=is_kept, mark=state.mark),
        running=await start(model, work, state),
        tokenizer=model.llm.llm.tokenizer,
        tools=called_tools(body),
        keep=partial(_keep, state, items),
    )
    if body.stream:
        return state.event_stream(_events(answering, state), response_error_event)
    with state.responses.writing(answering.response, answering.running):
        whole = await unless_gone(request.receive, answering.whole())
    return Response(whole.model_dump_json(), media_type="application/json")


@router.get("/v1/responses/{response_id}", responses=_KEPT)
async def kept_response(response_id: _ID, state: State) -> ResponseObject:
    """An answer that is kept, or is being written."""
    return _told(state.responses.get(response_id))


@router.delete("/v1/responses/{response_id}", responses=_KEPT)
async def delete_response(response_id: _ID, state: State) -> DeletedResponse:
    """Keep an answer no longer."""
    state.responses.delete(response_id)
    return DeletedResponse(id=response_id)


@router.post("/v1/responses/{response_id}/cancel", responses=_KEPT)
async def cancel_response(response_id: _ID, state: State) -> ResponseObject:
    """End an answer that is being written; what it has said so far stays. One that has ended is told as it is."""
    return _told(state.responses.cancel(response_id))


def _told(reply: bytes) -> ResponseObject:
    """A reply that is JSON already."""
    return Response(reply, media_type="application/json")  # type: ignore[return-value]


async def _events(answering: Answering, state: ServerState) -> AsyncGenerator[bytes, None]:
    """The events of an answer, which can be called off meanwhile."""
    with state.responses.writing(answering.response, answering.running):
        async with aclosing(response_events(answering)) as events:
            async for event in events:
                yield event


async def _keep(state: ServerState, items: Sequence[InputItem], whole: ResponseObject) -> None:
    if whole.store:
        await state.responses.keep(whole, items)


def _work(body: ResponsesRequest, items: Sequence[InputItem], settings: Settings) -> Work:
    """What to run. Raises: RequestError."""
    return Work(
        prompts=[conversation(body.instructions, items, refuses_media=settings.media == "refuse")],
        options=_options(body, settings),
        param="input",
        chat=ChatArguments(
            tools=functions(body),
            tool_choice=choice(body),
            parallel_tool_calls=body.parallel_tool_calls,
            template_options=body.chat_template_kwargs,
        ),
        renamed=_RENAMED,
    )


def _options(body: ResponsesRequest, settings: Settings) -> dict[str, object]:
    limit = settings.default_max_tokens if body.max_output_tokens is None else body.max_output_tokens
    options: dict[str, object] = {"max_new_tokens": limit}
    effort = body.reasoning.effort if body.reasoning else None
    given = {"temperature": body.temperature, "top_p": body.top_p, "reasoning_effort": effort}
    options |= {name: value for name, value in given.items() if value is not None}
    wanted = body.text.format if body.text else None
    if isinstance(wanted, JsonSchemaText):
        return options | {"json_schema": wanted.json_schema}
    return options | (format_options(wanted) if isinstance(wanted, JsonObjectFormat) else {})
