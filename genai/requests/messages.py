"""Conversations, and how chat templates are told them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints, model_validator

from genai.errors import RequestError
from genai.requests.base import JsonObject, Request

Name: TypeAlias = Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]


class TextPart(Request):
    """A piece of a message's text."""

    type: Literal["text"]
    text: str


class RefusalPart(Request):
    """What an assistant said when it refused."""

    type: Literal["refusal"]
    refusal: str


Parts: TypeAlias = Annotated[list[TextPart], Field(fail_fast=True, min_length=1, max_length=1000)]
AssistantParts: TypeAlias = Annotated[
    list[Annotated[TextPart | RefusalPart, Field(discriminator="type")]],
    Field(fail_fast=True, min_length=1, max_length=1000),
]


class SystemMessage(Request):
    """Instructions. `developer` is OpenAI's newer name for them: templates are given `system`."""

    role: Literal["system", "developer"]
    content: str | Parts
    name: str | None = None


class UserMessage(Request):
    """What the user says."""

    role: Literal["user"]
    content: str | Parts
    name: str | None = None


class CalledFunction(Request):
    """The function that an assistant called."""

    name: Name
    arguments: str | JsonObject = Field(description="A JSON object, best as text.", examples=["{}"])


class PastToolCall(Request):
    """A call that an assistant made."""

    id: str | None = None
    type: Literal["function"] = "function"
    function: CalledFunction


class AssistantMessage(Request):
    """What the model said before."""

    role: Literal["assistant"]
    content: str | AssistantParts | None = None
    refusal: str | None = None
    reasoning_content: str | None = Field(None, description="Extension. What it thought, for templates that show it.")
    tool_calls: Annotated[list[PastToolCall], Field(fail_fast=True, max_length=128)] | None = None
    name: str | None = None

    @model_validator(mode="after")
    def _says_something(self) -> AssistantMessage:
        if self.content is None and not self.tool_calls and self.refusal is None and self.reasoning_content is None:
            raise ValueError("an assistant's message needs content or tool_calls")
        return self


class ToolMessage(Request):
    """What a tool answered."""

    role: Literal["tool"]
    content: str | Parts
    tool_call_id: str | None = None
    name: str | None = Field(None, description="The function's; left out: that of the call.")


Message: TypeAlias = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]
Messages: TypeAlias = Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=4096)]


def template_messages(messages: Sequence[Message]) -> list[Mapping[str, object]]:
    """Messages as chat templates know them. Raises: RequestError for a past call whose arguments are no object."""
    return [_template_message(message, f"messages[{number}]") for number, message in enumerate(messages)]


def _template_message(message: Message, place: str) -> dict[str, object]:
    plain: dict[str, object] = {"role": "system" if message.role == "developer" else message.role}
    plain["content"] = _text(message.content)
    if isinstance(message, ToolMessage):
        plain |= {} if message.tool_call_id is None else {"tool_call_id": message.tool_call_id}
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


def past_call(call_id: str | None, function: CalledFunction, param: str) -> dict[str, object]:
    """A past call; templates expect its arguments as an object. param: where they stand. Raises: RequestError."""
    try:
        arguments = json.loads(function.arguments) if isinstance(function.arguments, str) else function.arguments
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        message = f"{param}: must be a JSON object, written as a string"
        raise RequestError(message, code="invalid_value", param=param)
    called: dict[str, object] = {"type": "function", "function": {"name": function.name, "arguments": arguments}}
    return called if call_id is None else {"id": call_id, **called}
