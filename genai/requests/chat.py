"""`POST /v1/chat/completions`: what is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeAlias, TypedDict

from pydantic import Field, model_validator

from genai.chat.tools import MAX_TOOLS
from genai.errors import RequestError
from genai.requests.base import JsonObject, Request
from genai.requests.generation import ChatTemplateOptions, GenerationRequest, TokenLimit, with_options
from genai.requests.messages import Messages, Name, is_begun


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


class AllowedTools(Request):
    """Which tools may be called, and whether one must be."""

    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(fail_fast=True, min_length=1, max_length=MAX_TOOLS)]


class AllowedToolChoice(Request):
    """Some of the tools may be called. The model is told of all of them, so that prompts begin alike."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


class TextFormat(Request):
    """Any text."""

    type: Literal["text"]


class JsonObjectFormat(Request):
    """A JSON object."""

    type: Literal["json_object"]
    json_schema: JsonObject | None = Field(None, alias="schema", description="Extension. A schema that it follows.")


class JsonSchema(Request):
    """A schema and its name."""

    name: str | None = None
    description: str | None = None
    json_schema: JsonObject | bool = Field(alias="schema", description="The schema that the text follows.")
    strict: bool | None = Field(None, description="The text always follows the schema; false changes nothing.")


class JsonSchemaFormat(Request):
    """JSON that follows a schema; `schema` may stand here, too, without a name around it."""

    type: Literal["json_schema"]
    json_schema: JsonSchema

    @model_validator(mode="before")
    @classmethod
    def _wrapped(cls, value: object) -> object:
        if isinstance(value, Mapping) and "schema" in value and value.get("json_schema") is None:
            return {**value, "json_schema": {"schema": value["schema"]}}
        return value


ResponseFormat: TypeAlias = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]
ToolChoice: TypeAlias = Annotated[NamedTool | AllowedToolChoice, Field(discriminator="type")]
Tools: TypeAlias = Annotated[list[Tool], Field(fail_fast=True, max_length=MAX_TOOLS)]


@with_options("chat")
class ChatRequest(GenerationRequest):
    """A conversation to be continued."""

    messages: Messages
    max_tokens: TokenLimit | None = Field(None, description="OpenAI's older name of the next field.")
    max_completion_tokens: TokenLimit | None = Field(
        None, description="Tokens to generate at most; -1: until the answer or the context ends."
    )
    logprobs: bool | None = Field(None, description="Report the log probability of each token.")
    response_format: ResponseFormat | None = None
    tools: Tools | None = None
    tool_choice: Literal["none", "auto", "required"] | ToolChoice | None = None
    parallel_tool_calls: bool | None = None
    continue_final_message: bool | None = Field(
        None, description="Extension. Go on where the last message, an assistant's, ends; so does its `prefix: true`."
    )
    chat_template_kwargs: ChatTemplateOptions | None = Field(
        None, description="Extension. Variables for the model's chat template, such as `enable_thinking`."
    )


def described(tools: Sequence[Tool] | None) -> list[dict[str, object]] | None:
    """Tools as chat templates are told of them; None for none."""
    return [tool.model_dump(exclude_none=True) for tool in tools] if tools else None


class ChatArguments(TypedDict, total=False):
    """Arguments of `LLM.prepare` that go with messages."""

    tools: Sequence[Mapping[str, object]] | None
    tool_choice: object
    parallel_tool_calls: bool | None
    template_options: Mapping[str, object] | None
    continue_final_message: bool


def chat_arguments(body: ChatRequest) -> ChatArguments:
    """What goes with a request's messages; functions are checked where everybody's are. Raises: RequestError."""
    choice = body.tool_choice
    return ChatArguments(
        tools=described(body.tools),
        tool_choice=choice.model_dump() if isinstance(choice, Request) else choice,
        parallel_tool_calls=body.parallel_tool_calls,
        template_options=body.chat_template_kwargs,
        continue_final_message=is_begun(body.messages, body.continue_final_message),
    )


def chat_options(body: ChatRequest, given: Mapping[str, object]) -> dict[str, object]:
    """All options of a request; given: those of the table. Raises: RequestError."""
    given_limits = {body.max_tokens, body.max_completion_tokens} - {None}
    limits = given_limits - {-1} or given_limits
    if len(limits) > 1:
        message = "max_tokens and max_completion_tokens differ; give one of them"
        raise RequestError(message, code="invalid_value", param="max_tokens")
    options = {**given, **({"max_new_tokens": limits.pop()} if limits else {})}
    if body.logprobs is not None:
        options |= {"logprobs": body.logprobs} if body.logprobs else {"logprobs": False, "top_logprobs": 0}
    return options | format_options(body.response_format)


def format_options(wanted: ResponseFormat | None) -> dict[str, object]:
    """The options of a response format."""
    match wanted:
        case JsonObjectFormat(json_schema=None):
            return {"json_object": True}
        case JsonObjectFormat(json_schema=schema):
            return {"json_schema": schema}
        case JsonSchemaFormat(json_schema=named):
            return {"json_schema": named.json_schema}
    return {}
