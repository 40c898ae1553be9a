"""`POST /v1/chat/completions`: what is asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, TypeAlias, TypedDict

from pydantic import Field

from genai.errors import RequestError
from genai.requests.base import JsonObject, Request
from genai.requests.generation import ChatTemplateOptions, GenerationRequest, TokenLimit, with_options
from genai.requests.messages import Messages, Name


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

    name: Name | None = None
    description: str | None = None
    json_schema: JsonObject | bool = Field(alias="schema", description="The schema that the text follows.")
    strict: bool | None = Field(None, description="The text always follows the schema; false changes nothing.")


class JsonSchemaFormat(Request):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormat: TypeAlias = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]
Tools: TypeAlias = Annotated[list[Tool], Field(fail_fast=True, max_length=128)]


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
    tool_choice: Literal["none", "auto", "required"] | NamedTool | None = None
    parallel_tool_calls: bool | None = None
    chat_template_kwargs: ChatTemplateOptions | None = Field(
        None, description="Extension. Variables for the model's chat template, such as `enable_thinking`."
    )


class ChatArguments(TypedDict, total=False):
    """Arguments of `LLM.prepare` that go with messages."""

    tools: Sequence[Mapping[str, object]] | None
    tool_choice: object
    parallel_tool_calls: bool | None
    template_options: Mapping[str, object] | None


def chat_arguments(body: ChatRequest) -> ChatArguments:
    """What goes with a request's messages; functions are checked where everybody's are."""
    choice = body.tool_choice
    return ChatArguments(
        tools=[tool.model_dump(exclude_none=True) for tool in body.tools] if body.tools else None,
        tool_choice=choice.model_dump() if isinstance(choice, NamedTool) else choice,
        parallel_tool_calls=body.parallel_tool_calls,
        template_options=body.chat_template_kwargs,
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
    if isinstance(body.response_format, JsonObjectFormat):
        options["json_object"] = True
    elif isinstance(body.response_format, JsonSchemaFormat):
        options["json_schema"] = body.response_format.json_schema.json_schema
    return options
