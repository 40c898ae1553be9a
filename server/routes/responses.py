"""`POST /v1/responses`: OpenAI's Responses API, for text; nothing is kept between requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from genai.requests.chat import ChatArguments, JsonObjectFormat
from genai.requests.messages import past_call
from server.body import StrictRoute
from server.errors import unless_gone
from server.generation import Work, start
from server.openapi import GENERATING, streaming
from server.replies.parts import AnswerParts
from server.replies.responses import finished_response, new_response, response_error_event, response_events
from server.schemas.responses import (
    ChosenFunction,
    FunctionTool,
    InputCall,
    InputCallOutput,
    InputItem,
    InputMessage,
    InputReasoning,
    InputText,
    JsonSchemaText,
    ResponseObject,
    ResponsesRequest,
)
from server.settings import Settings
from server.state import State

router = APIRouter(tags=["generation"], route_class=StrictRoute)

_RENAMED = {"response_format": "text.format", "max_tokens": "max_output_tokens"}
_ANSWER = streaming(
    ResponseObject,
    "typed events, from `response.created` to `response.completed`, `response.incomplete` or `response.failed`.",
)


@router.post("/v1/responses", responses=GENERATING | _ANSWER)
async def responses(body: ResponsesRequest, request: Request, state: State) -> Response:
    """Answer a conversation."""
    work = _work(body, state.settings)
    model = await state.models.get(body.model)
    response = new_response(body, model.name)
    running, tokenizer = await start(model, work, state), model.llm.llm.tokenizer
    if body.stream:
        return state.event_stream(response_events(response, running, tokenizer), response_error_event)
    parts = await unless_gone(request.receive, AnswerParts(says_something=True).follow_to_the_end(running))
    whole = await finished_response(response, parts, tokenizer)
    return Response(whole.model_dump_json(), media_type="application/json")


def _work(body: ResponsesRequest, settings: Settings) -> Work:
    """What to run. Raises: RequestError."""
    choice = body.tool_choice
    return Work(
        prompts=[_messages(body)],
        options=_options(body, settings),
        param="input",
        chat=ChatArguments(
            tools=[_tool(tool) for tool in body.tools] if body.tools else None,
            tool_choice=_chosen(choice) if isinstance(choice, ChosenFunction) else choice,
            parallel_tool_calls=body.parallel_tool_calls,
            template_options=body.chat_template_kwargs,
        ),
        renamed=_RENAMED,
    )


def _options(body: ResponsesRequest, settings: Settings) -> dict[str, object]:
    limit = settings.default_max_tokens if body.max_output_tokens is None else body.max_output_tokens
    options: dict[str, object] = {"max_new_tokens": limit}
    given = {"temperature": body.temperature, "top_p": body.top_p}
    options |= {name: value for name, value in given.items() if value is not None}
    wanted = body.text.format if body.text else None
    if isinstance(wanted, JsonObjectFormat):
        options["json_object"] = True
    elif isinstance(wanted, JsonSchemaText):
        options["json_schema"] = wanted.json_schema
    return options


def _tool(tool: FunctionTool) -> dict[str, object]:
    """A tool as chat completions write it."""
    return {"type": "function", "function": tool.model_dump(exclude={"type"}, exclude_none=True)}


def _chosen(choice: ChosenFunction) -> dict[str, object]:
    return {"type": "function", "function": {"name": choice.name}}


def _messages(body: ResponsesRequest) -> list[Mapping[str, object]]:
    """The conversation as chat templates know it. Raises: RequestError for a past call without an object."""
    said: list[dict[str, object]] = []
    if body.instructions is not None:
        said.append({"role": "system", "content": body.instructions})
    if isinstance(body.input, str):
        return [*said, {"role": "user", "content": body.input}]
    turn = _AssistantTurn()
    for number, item in enumerate(body.input):
        if isinstance(item, InputReasoning):
            if turn.content is not None or turn.calls:
                said += turn.ended()
            turn.reasoning += "".join(part.text for part in item.content or ())
        elif isinstance(item, InputCall):
            turn.calls.append(past_call(item.call_id, item, f"input[{number}].arguments"))
        elif isinstance(item, InputMessage) and item.role == "assistant":
            if turn.content is not None and not turn.calls:
                said += turn.ended()
            turn.content = (turn.content or "") + _text(item)
        else:
            said += [*turn.ended(), _message(item)]
    return [*said, *turn.ended()]


def _message(item: InputItem) -> dict[str, object]:
    """An item that is not the assistant's."""
    if isinstance(item, InputMessage):
        return {"role": "system" if item.role == "developer" else item.role, "content": _text(item)}
    assert isinstance(item, InputCallOutput), "all others are the assistant's"
    output = item.output if isinstance(item.output, str) else "".join(part.text for part in item.output)
    return {"role": "tool", "tool_call_id": item.call_id, "content": output}


def _text(item: InputMessage) -> str:
    """A message's text: its parts joined."""
    if isinstance(item.content, str):
        return item.content
    return "".join(part.text if isinstance(part, InputText) else part.refusal for part in item.content)


@dataclass(slots=True, kw_only=True)
class _AssistantTurn:
    """What the assistant thought, said and called, which is one message to templates."""

    reasoning: str = ""
    content: str | None = None
    calls: list[dict[str, object]] = field(default_factory=list)

    def ended(self) -> list[dict[str, object]]:
        """The message, if there is one; another turn begins."""
        message: dict[str, object] = {"role": "assistant", "content": self.content or ""}
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = self.calls
        is_empty = self.content is None and not self.reasoning and not self.calls
        self.reasoning, self.content, self.calls = "", None, []
        return [] if is_empty else [message]
