"""Conversations, and how chat templates are told them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, StringConstraints

from genai.chat.tools import MAX_TOOLS, TOOL_NAME
from genai.errors import RequestError
from genai.requests.base import JsonObject, Request
from genai.requests.content import Parts, check_media, text_of

Name: TypeAlias = Annotated[str, StringConstraints(pattern=f"^{TOOL_NAME}$")]


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
    content: str | Parts | None = None
    refusal: str | None = None
    reasoning_content: str | None = Field(None, description="Extension. What it thought, for templates that show it.")
    tool_calls: Annotated[list[PastToolCall], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    function_call: CalledFunction | None = Field(None, description="OpenAI's older form of one call.")
    prefix: bool | None = Field(None, description="Extension. In the last message: the answer goes on where it ends.")
    name: str | None = None


class ToolMessage(Request):
    """What a tool answered."""

    role: Literal["tool"]
    content: str | Parts | None = None
    tool_call_id: str | None = None
    name: str | None = Field(None, description="The function's; left out: that of the call.")


class FunctionMessage(Request):
    """What a function answered, in OpenAI's older form."""

    role: Literal["function"]
    content: str | Parts | None = None
    name: str


Message: TypeAlias = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage | FunctionMessage, Field(discriminator="role")
]
Messages: TypeAlias = Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=4096)]

_ROLES = {"developer": "system", "function": "tool"}
"""Roles that templates know by another name."""


def template_messages(messages: Sequence[Message], *, refuses_media: bool = False) -> list[Mapping[str, object]]:
    """Messages as chat templates know them.

    refuses_media: whether what is no text is refused even beside text.
    Raises: RequestError for a past call whose arguments are no object, and for what is no text.
    """
    told = [_template_message(message, f"messages[{number}]") for number, message in enumerate(messages)]
    check_media(messages, told, "messages", is_refused=refuses_media)
    return told


def is_begun(messages: Sequence[Message], asked: bool | None) -> bool:
    """Whether the answer goes on where the last message ends; asked: whether the request says so.

    Raises: RequestError if it says so and the last message is no answer.
    """
    last = messages[-1]
    if isinstance(last, AssistantMessage) and not last.tool_calls and last.function_call is None:
        return bool(asked or last.prefix)
    if asked:
        message = "continue_final_message: the last message must be an assistant's without calls"
        raise RequestError(message, code="invalid_value", param="continue_final_message")
    return False


def _template_message(message: Message, place: str) -> Mapping[str, object]:
    plain: dict[str, object] = {"role": _ROLES.get(message.role, message.role)}
    if isinstance(message, AssistantMessage):
        plain |= _answer(message, place)
    else:
        plain["content"] = text_of(message.content)
    if isinstance(message, ToolMessage) and message.tool_call_id is not None:
        plain["tool_call_id"] = message.tool_call_id
    return plain | ({"name": message.name} if message.name is not None else {})


def _answer(message: AssistantMessage, place: str) -> dict[str, object]:
    """What the model said, thought and called."""
    refused = message.refusal if message.content is None else None
    answer: dict[str, object] = {"content": refused or text_of(message.content, is_answer=True)}
    if message.reasoning_content is not None:
        answer["reasoning_content"] = message.reasoning_content
    if message.tool_calls:
        answer["tool_calls"] = [
            past_call(call.id, call.function, f"{place}.tool_calls[{number}].function.arguments")
            for number, call in enumerate(message.tool_calls)
        ]
    elif message.function_call is not None:
        answer["tool_calls"] = [past_call(None, message.function_call, f"{place}.function_call.arguments")]
    return answer


def past_call(call_id: str | None, function: CalledFunction, param: str) -> dict[str, object]:
    """A past call; templates expect its arguments as an object: {} if they are blank.

    param: where they stand. Raises: RequestError.
    """
    given = function.arguments
    try:
        arguments = (json.loads(given) if given.strip() else {}) if isinstance(given, str) else given
    except (ValueError, RecursionError):
        arguments = None
    if not isinstance(arguments, dict):
        message = f"{param}: must be a JSON object, written as a string"
        raise RequestError(message, code="invalid_value", param=param)
    called: dict[str, object] = {"type": "function", "function": {"name": function.name, "arguments": arguments}}
    return called if call_id is None else {"id": call_id, **called}
