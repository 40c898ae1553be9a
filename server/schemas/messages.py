"""`POST /v1/messages` and `POST /v1/messages/count_tokens`: the shapes of Anthropic's API."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag, model_validator

from genai.chat.tools import MAX_TOOLS
from genai.options.generation_config import MAX_STOPS, ReasoningEffort
from genai.requests.base import JsonObject, ModelName, Request, WholeRequest
from genai.requests.messages import Name
from server.schemas.blocks import AssistantTurn, TextBlocks, Turns
from server.schemas.common import Response


class CustomTool(Request):
    """A tool that the model may call."""

    type: Literal["custom"] | None = None
    name: Name
    description: str | None = None
    input_schema: JsonObject = Field(description="A JSON schema of type object.")
    strict: bool | None = Field(None, description="Whether arguments must follow the schema to the letter.")


class OtherTool(Request):
    """A tool of Anthropic's own. None is run or known here: the model is not told about it."""

    type: str
    name: str | None = None


def _tool_branch(tool: object) -> str:
    kind = tool.get("type") if isinstance(tool, Mapping) else getattr(tool, "type", None)
    return "custom" if kind in (None, "custom") else "other"


AnyTool: TypeAlias = Annotated[
    Annotated[CustomTool, Tag("custom")] | Annotated[OtherTool, Tag("other")], Discriminator(_tool_branch)
]


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


class ThinkingEnabled(Request):
    """The model thinks before it answers."""

    type: Literal["enabled"]
    budget_tokens: int | None = Field(None, ge=0, description="Tokens of thinking at most; then it is ended.")


class ThinkingAdaptive(Request):
    """The model thinks as it likes."""

    type: Literal["adaptive"]


class ThinkingDisabled(Request):
    """The model answers at once."""

    type: Literal["disabled"]


Thinking: TypeAlias = Annotated[ThinkingEnabled | ThinkingAdaptive | ThinkingDisabled, Field(discriminator="type")]


class JsonFormat(Request):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: JsonObject | bool = Field(alias="schema", description="The schema that the text follows.")


class OutputConfig(Request):
    """What the text must be, and what it may cost."""

    format: JsonFormat | None = None
    effort: ReasoningEffort | None = Field(None, description="As `reasoning_effort` of chat completions.")


class CountTokensRequest(WholeRequest):
    """A conversation, to be counted as it would be answered."""

    writes: ClassVar[bool] = False

    model: ModelName = None
    messages: Turns = Field(description="The answer goes on where the last one ends, if that is the assistant's.")
    system: str | TextBlocks | None = None
    tools: Annotated[list[AnyTool], Field(fail_fast=True, max_length=MAX_TOOLS)] | None = None
    tool_choice: Annotated[AutoChoice | AnyChoice | ToolChoice | NoChoice, Field(discriminator="type")] | None = None
    thinking: Thinking | None = Field(
        None, description="As the chat template knows it; changes nothing for models that do not think."
    )
    output_config: OutputConfig | None = None
    cache_control: JsonObject | None = Field(
        None, description="Changes nothing: prompts that begin alike share what is cached, marked or not."
    )

    @model_validator(mode="after")
    def _calls_have_results(self) -> CountTokensRequest:
        last = self.messages[-1]
        if isinstance(last, AssistantTurn) and last.has_call:
            raise ValueError("messages must not end with a tool_use: its tool_result is missing")
        return self

    @property
    def is_begun(self) -> bool:
        """Whether the answer is begun: it goes on where the last message ends."""
        return isinstance(self.messages[-1], AssistantTurn)


class MessagesRequest(CountTokensRequest):
    """A conversation to be continued."""

    writes: ClassVar[bool] = True

    max_tokens: int = Field(ge=1, lt=1 << 31, description="Tokens to generate at most, thinking included.")
    stop_sequences: (
        Annotated[list[Annotated[str, Field(min_length=1, max_length=1000)]], Field(max_length=MAX_STOPS)] | None
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
