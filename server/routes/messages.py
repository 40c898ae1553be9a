"""`POST /v1/messages` and `POST /v1/messages/count_tokens`: for clients of Anthropic's API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from genai.requests.chat import ChatArguments
from genai.requests.content import OtherPart, check_media
from server.body import StrictRoute
from server.encoding import encoded
from server.errors import SHAPES, unless_gone
from server.generation import Work, start
from server.models import ServedModel
from server.openapi import GENERATING, Responses, streaming
from server.replies.messages import (
    anthropic_shape,
    finished_message,
    message_error_event,
    message_events,
    new_message,
)
from server.replies.parts import AnswerParts
from server.schemas.blocks import (
    AssistantTurn,
    SystemTurn,
    TextBlock,
    ThinkingBlock,
    ToolResultBlock,
    ToolUseBlock,
    UserTurn,
    joined,
)
from server.schemas.messages import (
    AnswerMessage,
    AnyChoice,
    AutoChoice,
    CountTokensRequest,
    CustomTool,
    MessagesError,
    MessagesRequest,
    ThinkingDisabled,
    ThinkingEnabled,
    TokenCount,
    ToolChoice,
)
from server.settings import Settings
from server.state import State

router = APIRouter(tags=["generation"], route_class=StrictRoute)

_MESSAGES, _COUNT = "/v1/messages", "/v1/messages/count_tokens"
_OPTIONS = {
    "max_tokens": "max_new_tokens",
    "stop_sequences": "stop_strings",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
}
"""Request fields and the generation options that they are."""
_BILLING = "x-anthropic-billing-header:"
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_ERRORS: Responses = {status: {**told, "model": MessagesError} for status, told in GENERATING.items()}
_ANSWER = streaming(AnswerMessage, "typed events, from `message_start` to `message_stop`.")
SHAPES.update(dict.fromkeys((_MESSAGES, _COUNT), anthropic_shape))


@router.post(_MESSAGES, responses=_ERRORS | _ANSWER)
async def messages(body: MessagesRequest, request: Request, state: State) -> Response:
    """Answer a conversation, in Anthropic's shape."""
    model = await state.models.get(body.model)
    work = _work(body, state.settings)
    message = new_message(model.asked_name)
    running, tokenizer = await start(model, work, state), model.llm.llm.tokenizer
    if body.stream:
        return state.event_stream(message_events(message, body, running, tokenizer), message_error_event)
    parts = await unless_gone(request.receive, AnswerParts(says_something=False).follow_to_the_end(running))
    whole = await finished_message(message, body, parts, tokenizer)
    return Response(whole.model_dump_json(), media_type="application/json")


@router.post(_COUNT, responses=_ERRORS)
async def count_tokens(body: CountTokensRequest, state: State) -> TokenCount:
    """How many tokens a conversation is for the model."""
    model = await state.models.get(body.model)
    return await asyncio.to_thread(_count, body, model, state.settings)


def _count(body: CountTokensRequest, model: ServedModel, settings: Settings) -> TokenCount:
    from genai.chat.reasoning import reasoning_variables
    from genai.chat.tools import ToolSet

    told = ToolSet.of(_tools(body), _choice(body), _is_parallel(body)).described()
    tokenizer = model.llm.llm.tokenizer
    reasoning: dict[str, Any] = _reasoning(body)
    variables: dict[str, Any] = reasoning_variables(tokenizer.template_variables(has_tools=bool(told)), **reasoning)
    text = tokenizer.render_chat(
        _conversation(body, settings), tools=told, continue_final_message=body.is_begun, **variables
    )
    return TokenCount(input_tokens=len(encoded(tokenizer, text, add_special_tokens=False)))


def _work(body: MessagesRequest, settings: Settings) -> Work:
    """What to run. Raises: RequestError."""
    given = {ours: getattr(body, name) for name, ours in _OPTIONS.items()}
    options = {name: value for name, value in (given | _reasoning(body)).items() if value is not None}
    if body.output_config and body.output_config.format:
        options["json_schema"] = body.output_config.format.json_schema
    return Work(
        prompts=[_conversation(body, settings)],
        options=options,
        param="messages",
        chat=ChatArguments(
            tools=_tools(body),
            tool_choice=_choice(body),
            parallel_tool_calls=_is_parallel(body),
            continue_final_message=body.is_begun,
        ),
    )


def _tools(body: CountTokensRequest) -> list[dict[str, object]] | None:
    """Tools as chat completions write them, without those that are not known here."""
    return [_tool(tool) for tool in body.tools or () if isinstance(tool, CustomTool)] or None


def _tool(tool: CustomTool) -> dict[str, object]:
    given = tool.model_dump(include={"name", "description", "strict"}, exclude_none=True)
    return {"type": "function", "function": {**given, "parameters": tool.input_schema}}


def _choice(body: CountTokensRequest) -> object:
    choice = body.tool_choice
    if isinstance(choice, ToolChoice):
        return {"type": "function", "function": {"name": choice.name}}
    return None if choice is None else _CHOICES[choice.type]


def _is_parallel(body: CountTokensRequest) -> bool | None:
    choice = body.tool_choice
    return False if isinstance(choice, AutoChoice | AnyChoice) and choice.disable_parallel_tool_use else None


def _reasoning(body: CountTokensRequest) -> dict[str, object]:
    """The options that thinking and effort are."""
    thinking, effort = body.thinking, body.output_config.effort if body.output_config else None
    if isinstance(thinking, ThinkingDisabled):
        return {"reasoning_effort": "none"}
    if isinstance(thinking, ThinkingEnabled):
        return {"reasoning_effort": effort or "medium", "reasoning_budget": thinking.budget_tokens}
    return {"reasoning_effort": effort}


def _conversation(body: CountTokensRequest, settings: Settings) -> list[Mapping[str, object]]:
    """The conversation as chat templates know it. Raises: RequestError for what is no text."""
    said: list[Mapping[str, object]] = []
    if system := _system(body.system or ""):
        said.append({"role": "system", "content": system})
    for turn in body.messages:
        match turn:
            case AssistantTurn():
                said.append(_assistant(turn))
            case UserTurn():
                said += _user(turn)
            case SystemTurn():
                said.append({"role": "system", "content": joined(turn.content)})
    check_media(body.messages, said, "messages", is_refused=settings.media == "refuse")
    return said


def _system(system: str | list[TextBlock]) -> str:
    """The instructions. A first block that is a header for billing changes with each request, and tells nothing."""
    if isinstance(system, list) and system and system[0].text.startswith(_BILLING):
        system = system[1:]
    return joined(system)


def _user(turn: UserTurn) -> Iterator[Mapping[str, object]]:
    """What the user says, and results: each is a message of its own."""
    if isinstance(turn.content, str) or not turn.content:
        yield {"role": "user", "content": turn.content or ""}
        return
    for is_result, group in groupby(turn.content, key=lambda block: isinstance(block, ToolResultBlock)):
        blocks = list(group)
        if not is_result:
            yield {"role": "user", "content": "".join(_told(block) for block in blocks)}
        for block in blocks:
            if isinstance(block, ToolResultBlock):
                yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": _told(block)}


def _assistant(turn: AssistantTurn) -> Mapping[str, object]:
    """What the model thought, said and called, as one message."""
    if isinstance(turn.content, str):
        return {"role": "assistant", "content": turn.content}
    blocks = turn.content
    message: dict[str, object] = {
        "role": "assistant",
        "content": joined([block for block in blocks if isinstance(block, TextBlock)]),
    }
    if thought := "".join(block.thinking for block in blocks if isinstance(block, ThinkingBlock)):
        message["reasoning_content"] = thought
    if calls := [_call(block) for block in blocks if isinstance(block, ToolUseBlock)]:
        message["tool_calls"] = calls
    return message


def _call(block: ToolUseBlock) -> dict[str, object]:
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.input}}


def _told(block: TextBlock | ToolResultBlock | OtherPart) -> str:
    """A block's text. Templates do not know of errors: a result's text has to say that it is one."""
    if isinstance(block, TextBlock):
        return block.text
    if isinstance(block, OtherPart):
        return block.told
    content = block.content or ""
    text = content if isinstance(content, str) else "".join(_told(each) for each in content)
    return f"Error: {text}" if block.is_error else text
