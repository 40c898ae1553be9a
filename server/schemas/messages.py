"""`POST /v1/messages` and `POST /v1/messages/count_tokens`: the shapes of Anthropic's API."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import BeforeValidator, Field, model_validator

from genai.requests.base import JsonObject, ModelName, Request, WholeRequest
from genai.requests.messages import Name
from server.schemas.common import Response

_CACHED = "Changes nothing: prompts that begin alike share what is cached, marked or not."


class CacheControl(Request):
    """Where a prompt is to be cached."""

    type: Literal["ephemeral"]
    ttl: Literal["5m", "1h"] | None = None


class TextBlock(Request):
    """A piece of text. Several are joined as they are."""

    type: Literal["text"]
    text: str
    citations: Annotated[list[JsonObject], Field(max_length=0)] | None = Field(None, description="None are made here.")
    cache_control: CacheControl | None = Field(None, description=_CACHED)


TextBlocks: TypeAlias = Annotated[list[TextBlock], Field(fail_fast=True, max_length=1000)]


class ToolUseBlock(Request):
    """A call that the model made."""

    type: Literal["tool_use"]
    id: str
    name: Name
    input: JsonObject
    cache_control: CacheControl | None = Field(None, description=_CACHED)


class ToolResultBlock(Request):
    """What a tool answered."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | TextBlocks | None = None
    is_error: bool | None = Field(None, description="If true, the model is told `Error: ` before the content.")
    cache_control: CacheControl | None = Field(None, description=_CACHED)


class ThinkingBlock(Request):
    """What the model thought before, for templates that show it."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = Field(None, description="Not looked at: none are made here.")


UserBlocks: TypeAlias = Annotated[
    list[Annotated[TextBlock | ToolResultBlock, Field(discriminator="type")]],
    Field(fail_fast=True, min_length=1, max_length=1000),
]
AssistantBlocks: TypeAlias = Annotated[
    list[Annotated[TextBlock | ToolUseBlock | ThinkingBlock, Field(discriminator="type")]],
    Field(fail_fast=True, min_length=1, max_length=1000),
]


class UserTurn(Request):
    """What the user says, and what tools answered."""

    role: Literal["user"]
    content: str | UserBlocks


class AssistantTurn(Request):
    """What the model said before."""

    role: Literal["assistant"]
    content: str | AssistantBlocks


Turn: TypeAlias = Annotated[UserTurn | AssistantTurn, Field(discriminator="role")]
Turns: TypeAlias = Annotated[list[Turn], Field(fail_fast=True, min_length=1, max_length=4096)]


class CustomTool(Request):
    """A tool that the model may call: Anthropic's own tools are not run here."""

    type: Literal["custom"] | None = None
    name: Name
    description: str | None = None
    input_schema: JsonObject = Field(description="A JSON schema of type object.")
    strict: bool | None = Field(None, description="Whether arguments must follow the schema to the letter.")
    cache_control: CacheControl | None = Field(None, description=_CACHED)


class AutoChoice(Request):
    """Tools as the model likes."""

    type: Literal["auto"]
    disable_parallel_tool_use: bool | None = Field(None, description="At most one call.")


class AnyChoice(Request):
    """Some tool must be called."""

    type: Literal["any"]
    disable_parallel_tool_use: bool | None = Field(None, description="Exactly one call.")


class ToolChoice(Request):
    """This tool must be called, once."""

    type: Literal["tool"]
    name: Name
    disable_parallel_tool_use: bool | None = Field(None, description="Changes nothing: there is one call anyway.")


class NoChoice(Request):
    """No tool is called; the model is not told about them."""

    type: Literal["none"]


def _no_budget(value: object) -> None:
    if value is not None:
        raise ValueError("nothing ends thinking early here: leave it out; max_tokens ends it at the latest")


class ThinkingEnabled(Request):
    """The model thinks before it answers."""

    type: Literal["enabled"]
    budget_tokens: Annotated[None, BeforeValidator(_no_budget)] = Field(
        None, description="Not supported: nothing ends thinking before `max_tokens` does."
    )


class ThinkingDisabled(Request):
    """The model answers at once."""

    type: Literal["disabled"]


class JsonFormat(Request):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: JsonObject | bool = Field(alias="schema", description="The schema that the text follows.")


class OutputConfig(Request):
    """What the text must be."""

    format: JsonFormat | None = None


class CountTokensRequest(WholeRequest):
    """A conversation, to be counted as it would be answered."""

    model: ModelName = None
    messages: Turns = Field(description="The last one is the user's: answers cannot be begun here.")
    system: str | TextBlocks | None = None
    tools: Annotated[list[CustomTool], Field(fail_fast=True, max_length=128)] | None = None
    tool_choice: Annotated[AutoChoice | AnyChoice | ToolChoice | NoChoice, Field(discriminator="type")] | None = None
    thinking: Annotated[ThinkingEnabled | ThinkingDisabled, Field(discriminator="type")] | None = Field(
        None, description="Only for models whose chat template knows `enable_thinking`."
    )
    output_config: OutputConfig | None = None
    cache_control: CacheControl | None = Field(None, description=_CACHED)

    @model_validator(mode="after")
    def _ends_with_the_user(self) -> CountTokensRequest:
        if self.messages[-1].role != "user":
            raise ValueError("messages must end with the user's: the beginning of an answer cannot be given here")
        return self


class MessagesRequest(CountTokensRequest):
    """A conversation to be continued."""

    max_tokens: int = Field(ge=1, lt=1 << 31, description="Tokens to generate at most, thinking included.")
    stop_sequences: (
        Annotated[list[Annotated[str, Field(min_length=1, max_length=1000)]], Field(max_length=16)] | None
    ) = Field(None, description="The text ends before the first of these.")
    stream: bool | None = Field(None, description="Send the answer as typed server-sent events while it is written.")
    temperature: float | None = Field(None, ge=0, le=2, description="0: always the most probable token.")
    top_p: float | None = Field(None, ge=0, le=1, description="Sample from the smallest set this probable; 0: off.")
    top_k: int | None = Field(None, ge=-1, lt=1 << 31, description="Sample from the k most probable; 0 or -1: all.")


class TokenCount(Response):
    """How long the prompt is."""

    input_tokens: int


class AnswerText(Response):
    """What the model says."""

    type: Literal["text"] = "text"
    text: str
    citations: None = None


class AnswerThinking(Response):
    """What the model thought first."""

    type: Literal["thinking"] = "thinking"
    thinking: str
    signature: Literal[""] = ""


class AnswerToolUse(Response):
    """A call that the model makes."""

    type: Literal["tool_use"] = "tool_use"
    id: str
    name: str
    input: JsonObject


AnswerBlock: TypeAlias = AnswerText | AnswerThinking | AnswerToolUse
StopReason: TypeAlias = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]


class ThinkingDetails(Response):
    """What the generated tokens are."""

    thinking_tokens: int = Field(description="Tokens of the thinking's text.")


class MessagesUsage(Response):
    """Tokens. Those of the prompt are `input_tokens` and `cache_read_input_tokens` together."""

    input_tokens: int = Field(description="Those of the prompt that were not in the prefix cache.")
    cache_creation_input_tokens: int = Field(default=0, description="Always 0: the cache fills itself.")
    cache_read_input_tokens: int = Field(description="Those whose keys and values were in the prefix cache.")
    output_tokens: int
    output_tokens_details: ThinkingDetails


class AnswerMessage(Response):
    """The answer."""

    id: str
    type: Literal["message"] = "message"
    role: Literal["assistant"] = "assistant"
    model: str
    content: list[AnswerBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None = Field(description="The one of `stop_sequences` that ended the text.")
    usage: MessagesUsage


class MessagesErrorDetail(Response):
    """What went wrong."""

    type: str = Field(description="The kind of error.")
    message: str = Field(description="For people: what is wrong, what is allowed.")


class MessagesError(Response):
    """Every error of these two endpoints."""

    type: Literal["error"] = "error"
    error: MessagesErrorDetail
    request_id: str = Field(description="Under which the server's log says more; also the header X-Request-ID.")
