"""`POST /v1/chat/completions`."""

from __future__ import annotations

import json
from typing import Annotated, Literal, TypeAlias

from pydantic import Field, JsonValue, StringConstraints, model_validator

from server.schemas.common import JsonObject, Request, Response
from server.schemas.generation import ChatTemplateOptions, FinishReason, GenerationRequest, Timings, Usage

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
    arguments: str = Field(description="A JSON object, as text.", examples=["{}"])


class PastToolCall(Request):
    """A call that an assistant made."""

    id: str
    type: Literal["function"]
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
    tool_call_id: str


Message: TypeAlias = Annotated[
    SystemMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]
Messages: TypeAlias = Annotated[list[Message], Field(fail_fast=True, min_length=1, max_length=4096)]


class Function(Request):
    """A function that the model may call."""

    name: Name
    description: str | None = None
    parameters: JsonObject | None = Field(None, description="A JSON schema of type object.")
    strict: bool | None = Field(None, description="Whether arguments must follow the schema to the letter.")


class Tool(Request):
    """A tool: only functions can be called."""

    type: Literal["function"]
    function: Function


class NamedFunction(Request):
    """A function by name."""

    name: Name


class NamedTool(Request):
    """The tool that must be called."""

    type: Literal["function"]
    function: NamedFunction


class TextFormat(Request):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(Request):
    """A JSON object."""

    type: Literal["json_object"]


class JsonSchema(Request):
    """A schema and its name."""

    name: Name
    description: str | None = None
    json_schema: JsonObject | bool = Field(alias="schema", description="The schema that the text follows.")
    strict: bool | None = Field(None, description="The text always follows the schema; false changes nothing.")


class JsonSchemaFormat(Request):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat: TypeAlias = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]
Tools: TypeAlias = Annotated[list[Tool], Field(fail_fast=True, max_length=128)]


class ChatRequest(GenerationRequest):
    """A conversation to be continued."""

    messages: Messages
    max_tokens: int | None = Field(None, ge=1, lt=1 << 31, description="OpenAI's older name of the next field.")
    max_completion_tokens: int | None = Field(
        None, ge=1, lt=1 << 31, description="Tokens to generate at most; null: until the answer or the context ends."
    )
    logprobs: bool | None = Field(None, description="Report the log probability of each token.")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="And those of so many likely others.")
    response_format: ResponseFormat | None = None
    tools: Tools | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    metadata: Annotated[dict[str, JsonValue], Field(max_length=16)] | None = Field(
        None, description="Labels; they change nothing, and are not kept."
    )
    modalities: list[Literal["text"]] | None = None
    store: Literal[False] | None = Field(None, description="Nothing is kept.")
    service_tier: Literal["auto", "default"] | None = None
    chat_template_kwargs: ChatTemplateOptions | None = Field(
        None, description="Extension. Variables for the model's chat template, such as `enable_thinking`."
    )


class FunctionCall(Response):
    """A function and its arguments."""

    name: str
    arguments: str = Field(description="A JSON object, as text.")


class ToolCall(Response):
    """A call that the model makes."""

    id: str
    type: Literal["function"] = "function"
    function: FunctionCall


class AnswerMessage(Response):
    """What the model says."""

    role: Literal["assistant"] = "assistant"
    content: str | None
    refusal: None = None
    reasoning_content: str | None = Field(default=None, description="Extension. What it thought first.")
    tool_calls: list[ToolCall] | None = None


class TopLogprob(Response):
    """A token that could have come. bytes: its own, which may be part of a character."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token that came, and the likeliest ones in its place."""

    top_logprobs: list[TopLogprob]


class ChoiceLogprobs(Response):
    """Log probabilities of a text's tokens."""

    content: list[TokenLogprob] | None
    refusal: None = None


class ChatChoice(Response):
    """One answer."""

    index: int
    message: AnswerMessage
    logprobs: ChoiceLogprobs | None
    finish_reason: FinishReason


class ChatCompletion(Response):
    """The answers to a conversation."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    system_fingerprint: str = Field(description="Changes when the model's package does.")
    choices: list[ChatChoice]
    usage: Usage
    timings: Timings


def arguments_of(call: CalledFunction) -> dict[str, JsonValue] | None:
    """The arguments of a past call as an object, which is what templates expect; None if they are none."""
    try:
        value = json.loads(call.arguments)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
