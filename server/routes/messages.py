"""`POST /v1/messages` and `POST /v1/messages/count_tokens`: for clients of Anthropic's API."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from genai.requests.chat import ChatArguments
from server.body import StrictRoute
from server.errors import SHAPES, ApiError, unless_gone
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
from server.schemas.messages import (
    AnswerMessage,
    AnyChoice,
    AssistantTurn,
    AutoChoice,
    CountTokensRequest,
    CustomTool,
    MessagesError,
    MessagesRequest,
    TextBlock,
    ThinkingBlock,
    TokenCount,
    ToolChoice,
    ToolResultBlock,
    ToolUseBlock,
    UserTurn,
)
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
_CHOICES = {"auto": "auto", "any": "required", "none": "none"}
_ERRORS: Responses = {status: {**told, "model": MessagesError} for status, told in GENERATING.items()}
_ANSWER = streaming(AnswerMessage, "typed events, from `message_start` to `message_stop`.")
SHAPES.update(dict.fromkeys((_MESSAGES, _COUNT), anthropic_shape))


@router.post(_MESSAGES, responses=_ERRORS | _ANSWER)
async def messages(body: MessagesRequest, request: Request, state: State) -> Response:
    """Answer a conversation, in Anthropic's shape."""
    model = await state.models.get(body.model)
    work = _work(body, model)
    message = new_message(model.name)
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
    return await asyncio.to_thread(_count, body, model)


def _count(body: CountTokensRequest, model: ServedModel) -> TokenCount:
    from genai.chat.tools import ToolSet

    told = ToolSet.of(_tools(body), _choice(body), _is_parallel(body)).described()
    variables = _template_options(body, model) or {}
    tokens = model.llm.llm.tokenizer.apply_chat_template(_conversation(body), tools=told, **variables)
    return TokenCount(input_tokens=len(tokens))


def _work(body: MessagesRequest, model: ServedModel) -> Work:
    """What to run. Raises: ApiError."""
    given = {ours: getattr(body, name) for name, ours in _OPTIONS.items()}
    options = {name: value for name, value in given.items() if value is not None}
    if body.output_config and body.output_config.format:
        options["json_schema"] = body.output_config.format.json_schema
    return Work(
        prompts=[_conversation(body)],
        options=options,
        param="messages",
        chat=ChatArguments(
            tools=_tools(body),
            tool_choice=_choice(body),
            parallel_tool_calls=_is_parallel(body),
            template_options=_template_options(body, model),
        ),
    )


def _tools(body: CountTokensRequest) -> list[dict[str, object]] | None:
    """Tools as chat completions write them."""
    return [_tool(tool) for tool in body.tools] if body.tools else None


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


def _template_options(body: CountTokensRequest, model: ServedModel) -> dict[str, bool] | None:
    """Thinking, as chat templates know it. Raises: ApiError if this one does not."""
    if body.thinking is None:
        return None
    if "enable_thinking" not in (model.llm.llm.tokenizer.chat_template or ""):
        message = f"thinking is not supported by {model.name}: its chat template does not know enable_thinking"
        raise ApiError(400, message, code="unsupported_parameter", param="thinking")
    return {"enable_thinking": body.thinking.type == "enabled"}


def _conversation(body: CountTokensRequest) -> list[Mapping[str, object]]:
    """The conversation as chat templates know it."""
    said: list[Mapping[str, object]] = []
    if body.system:
        said.append({"role": "system", "content": _text(body.system)})
    for turn in body.messages:
        said += _assistant(turn) if isinstance(turn, AssistantTurn) else _user(turn)
    return said


def _user(turn: UserTurn) -> Iterator[Mapping[str, object]]:
    """What the user says, and results: each is a message of its own."""
    if isinstance(turn.content, str):
        yield {"role": "user", "content": turn.content}
        return
    for _, group in groupby(turn.content, key=type):
        blocks = list(group)
        if texts := [block for block in blocks if isinstance(block, TextBlock)]:
            yield {"role": "user", "content": _text(texts)}
        for block in blocks:
            if isinstance(block, ToolResultBlock):
                yield {"role": "tool", "tool_call_id": block.tool_use_id, "content": _result(block)}


def _assistant(turn: AssistantTurn) -> list[Mapping[str, object]]:
    """What the model thought, said and called, as one message."""
    if isinstance(turn.content, str):
        return [{"role": "assistant", "content": turn.content}]
    blocks = turn.content
    message: dict[str, object] = {
        "role": "assistant",
        "content": _text([block for block in blocks if isinstance(block, TextBlock)]),
    }
    if thought := "".join(block.thinking for block in blocks if isinstance(block, ThinkingBlock)):
        message["reasoning_content"] = thought
    if calls := [_call(block) for block in blocks if isinstance(block, ToolUseBlock)]:
        message["tool_calls"] = calls
    return [message]


def _call(block: ToolUseBlock) -> dict[str, object]:
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.input}}


def _result(block: ToolResultBlock) -> str:
    """A result's text. Templates do not know of errors: the text has to say that it is one."""
    return ("Error: " if block.is_error else "") + _text(block.content or "")


def _text(content: str | Sequence[TextBlock]) -> str:
    """Blocks joined."""
    return content if isinstance(content, str) else "".join(block.text for block in content)
