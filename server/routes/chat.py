"""`POST /v1/chat/completions`."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.body import StrictRoute
from server.errors import ApiError
from server.generation import Work, check_stream_options, finished, options_of, start, unless_gone
from server.openapi import GENERATING, streaming
from server.replies.chat import chat_completion, chat_events
from server.replies.common import Head
from server.schemas.chat import (
    AssistantMessage,
    CalledFunction,
    ChatCompletion,
    ChatRequest,
    JsonObjectFormat,
    JsonSchemaFormat,
    Message,
    NamedTool,
    RefusalPart,
    TextPart,
    ToolMessage,
    arguments_of,
)
from server.settings import Settings
from server.state import State

router = APIRouter(tags=["generation"], route_class=StrictRoute)


@router.post("/v1/chat/completions", responses=GENERATING | streaming(ChatCompletion))
async def chat_completions(body: ChatRequest, request: Request, state: State) -> Response:
    """Answer a conversation."""
    check_stream_options(body)
    work = _work(body, state.settings)
    model = await state.models.get(body.model)
    head, tokenizer = Head.of(model, "chatcmpl"), model.llm.llm.tokenizer
    if body.stream:
        has_usage = bool(body.stream_options and body.stream_options.include_usage)
        running = await start(model, work, state)
        return state.event_stream(chat_events(head, running, tokenizer, has_usage=has_usage))
    (result,) = await unless_gone(request, finished(model, work, state))
    reply = await asyncio.to_thread(chat_completion, head, result, tokenizer)  # log probabilities may be many
    return Response(reply, media_type="application/json")


def _work(body: ChatRequest, settings: Settings) -> Work:
    """What to run. Raises: ApiError."""
    return Work(
        prompts=[template_messages(body.messages)],
        options=_options(body, settings),
        param="messages",
        tools=[tool.model_dump(exclude_none=True) for tool in body.tools] if body.tools else None,
        tool_choice=body.tool_choice.model_dump() if isinstance(body.tool_choice, NamedTool) else body.tool_choice,
        parallel_tool_calls=body.parallel_tool_calls,
        template_options=body.chat_template_kwargs,
    )


def _options(body: ChatRequest, settings: Settings) -> dict[str, object]:
    limits = {body.max_tokens, body.max_completion_tokens} - {None}
    if len(limits) > 1:
        message = "max_tokens and max_completion_tokens differ; give one of them"
        raise ApiError(400, message, code="invalid_value", param="max_tokens")
    if body.top_logprobs and not body.logprobs:
        raise ApiError(400, "top_logprobs needs logprobs=true", code="invalid_value", param="top_logprobs")
    options = options_of(body)
    options["max_new_tokens"] = limits.pop() if limits else settings.default_max_tokens
    options |= {"logprobs": bool(body.logprobs), "top_logprobs": body.top_logprobs or 0}
    if isinstance(body.response_format, JsonObjectFormat):
        options["json_object"] = True
    elif isinstance(body.response_format, JsonSchemaFormat):
        options["json_schema"] = body.response_format.json_schema.json_schema
    return options


def template_messages(messages: Sequence[Message]) -> list[Mapping[str, object]]:
    """Messages as chat templates know them. Raises: ApiError for a past call whose arguments are no object."""
    return [_template_message(message, f"messages[{number}]") for number, message in enumerate(messages)]


def _template_message(message: Message, place: str) -> dict[str, object]:
    plain: dict[str, object] = {"role": "system" if message.role == "developer" else message.role}
    plain["content"] = _text(message.content)
    if isinstance(message, ToolMessage):
        return plain | {"tool_call_id": message.tool_call_id}
    if isinstance(message, AssistantMessage):
        if message.content is None and message.refusal is not None:
            plain["content"] = message.refusal
        if message.reasoning_content is not None:
            plain["reasoning_content"] = message.reasoning_content
        if message.tool_calls:
            calls = enumerate(message.tool_calls)
            plain["tool_calls"] = [
                past_call(call.id, call.function, f"{place}.tool_calls[{number}].function.arguments")
                for number, call in calls
            ]
    return plain | ({"name": message.name} if message.name is not None else {})


def _text(content: str | Sequence[TextPart | RefusalPart] | None) -> str:
    """A message's text: its parts joined; nothing for none, because templates would write "None"."""
    if content is None or isinstance(content, str):
        return content or ""
    return "".join(part.text if isinstance(part, TextPart) else part.refusal for part in content)


def past_call(call_id: str, function: CalledFunction, param: str) -> dict[str, object]:
    """A past call; templates expect its arguments as an object. param: where they stand. Raises: ApiError."""
    arguments = arguments_of(function)
    if arguments is None:
        raise ApiError(400, f"{param}: must be a JSON object, written as a string", code="invalid_value", param=param)
    return {"id": call_id, "type": "function", "function": {"name": function.name, "arguments": arguments}}
