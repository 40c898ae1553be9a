"""`/v1/responses`: what is asked for, but for its items and tools, and what is answered."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import AfterValidator, Field, StringConstraints

from genai.options.generation_config import ReasoningEffort
from genai.requests.base import JsonObject, ModelName, Request, WholeRequest
from genai.requests.chat import JsonObjectFormat, JsonSchema, TextFormat
from genai.requests.generation import ChatTemplateOptions, TokenLimit
from server.schemas.common import Response
from server.schemas.response_items import AllowedTools, ChosenTool, InputItems, ResponseTools

ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]


class JsonSchemaText(JsonSchema):
    """JSON that follows a schema."""

    type: Literal["json_schema"]


class TextConfig(Request):
    """What the text must be."""

    format: Annotated[TextFormat | JsonObjectFormat | JsonSchemaText, Field(discriminator="type")] | None = None


def _not_logprobs(name: str) -> str:
    if name == "message.output_text.logprobs":
        raise ValueError("log probabilities are told by /v1/chat/completions and /v1/completions")
    return name


Included: TypeAlias = Annotated[str, AfterValidator(_not_logprobs)]
Label: TypeAlias = Annotated[str, StringConstraints(max_length=512)]


class Reasoning(Request):
    """How much the model reasons."""

    effort: ReasoningEffort | None = Field(None, description="As `reasoning_effort` of chat completions.")


class ResponsesRequest(WholeRequest):
    """What the model is to answer. Null is as good as left out: the model's own default."""

    model: ModelName = None
    input: str | InputItems = Field([], description="What the user says, or the whole conversation.")
    instructions: str | None = Field(None, description="A system message before it.")
    max_output_tokens: TokenLimit | None = Field(
        None, description="Tokens to generate at most, reasoning included; -1: until the answer or the context ends."
    )
    temperature: float | None = Field(None, ge=0, le=2, description="0: always the most probable token.")
    top_p: float | None = Field(None, ge=0, le=1, description="Sample from the smallest set this probable; 0: off.")
    stream: bool | None = Field(None, description="Send the answer as typed server-sent events while it is written.")
    reasoning: Reasoning | None = None
    text: TextConfig | None = None
    tools: ResponseTools | None = Field(None, description="Those that servers run are left out: nothing is run here.")
    tool_choice: (
        Literal["none", "auto", "required"] | Annotated[ChosenTool | AllowedTools, Field(discriminator="type")] | None
    ) = None
    parallel_tool_calls: bool | None = None
    metadata: Annotated[dict[str, Label], Field(max_length=16)] | None = Field(
        None, description="Labels; they change nothing, and are told with the answer."
    )
    user: str | None = Field(None, description="A label; it changes nothing, and is not kept.")
    safety_identifier: str | None = Field(None, description="A label; it changes nothing, and is not kept.")
    prompt_cache_key: str | None = Field(
        None, description="Changes nothing: prompts that begin alike share what is cached, whatever their key."
    )
    store: bool | None = Field(
        None, description="Whether the answer, and the conversation before it, are kept for a while; null: true."
    )
    previous_response_id: str | None = Field(None, description="An answer that is kept: `input` goes on behind it.")
    include: Annotated[list[Included], Field(max_length=100)] | None = Field(
        None, description="What to tell besides: there is nothing of what else may stand here."
    )
    truncation: Literal["auto", "disabled"] | None = Field(
        None, description="A conversation that is too long is refused, whatever this says."
    )
    chat_template_kwargs: ChatTemplateOptions | None = Field(
        None, description="Extension. Variables for the model's chat template, such as `enable_thinking`."
    )


class OutputText(Response):
    """What the model says."""

    type: Literal["output_text"] = "output_text"
    text: str
    annotations: list[JsonObject] = Field(default=[], max_length=0)
    logprobs: list[JsonObject] = Field(default=[], max_length=0)


class OutputMessage(Response):
    """A message of the model's."""

    type: Literal["message"] = "message"
    id: str
    role: Literal["assistant"] = "assistant"
    status: ItemStatus
    content: list[OutputText]


Namespace: TypeAlias = Annotated[
    str | None, Field(description="That of the tool, if it is in one.", exclude_if=lambda value: value is None)
]


class OutputCall(Response):
    """A call that the model makes."""

    type: Literal["function_call"] = "function_call"
    id: str
    call_id: str = Field(description="For the `function_call_output` that answers it.")
    name: str
    namespace: Namespace = None
    arguments: str = Field(description="A JSON object, as text.")
    status: ItemStatus


class OutputCustomCall(Response):
    """A call of a tool that takes text."""

    type: Literal["custom_tool_call"] = "custom_tool_call"
    id: str
    call_id: str = Field(description="For the `custom_tool_call_output` that answers it.")
    name: str
    namespace: Namespace = None
    input: str
    status: ItemStatus


class OutputReasoningText(Response):
    """A piece of the model's reasoning."""

    type: Literal["reasoning_text"] = "reasoning_text"
    text: str


class OutputReasoning(Response):
    """What the model thought first."""

    type: Literal["reasoning"] = "reasoning"
    id: str
    summary: list[JsonObject] = Field(default=[], max_length=0)
    content: list[OutputReasoningText]
    status: ItemStatus


OutputItem: TypeAlias = OutputMessage | OutputCall | OutputCustomCall | OutputReasoning


class InputTokensDetails(Response):
    """Where a prompt's tokens came from."""

    cached_tokens: int = Field(description="Those whose keys and values were in the prefix cache.")
    cache_write_tokens: int = Field(default=0, description="Always 0: the cache fills itself, and costs nothing.")


class OutputTokensDetails(Response):
    """What the generated tokens are."""

    reasoning_tokens: int = Field(description="Tokens of the reasoning's text.")


class ResponsesUsage(Response):
    """Tokens."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int


class IncompleteDetails(Response):
    """Why an answer breaks off."""

    reason: Literal["max_output_tokens"] = Field(description="Also told when the context or the time was at its end.")


class ResponseFailure(Response):
    """Why there is no answer."""

    code: Literal["server_error", "invalid_prompt"] = Field(
        description="invalid_prompt: something in the request, as the message says, which showed only while it ran."
    )
    message: str


class ResponseObject(Response):
    """The answer, with what was asked for."""

    id: str
    object: Literal["response"] = "response"
    created_at: int
    status: Literal["in_progress", "completed", "incomplete", "failed", "cancelled"]
    background: Literal[False] = False
    error: ResponseFailure | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: str | None
    store: bool = Field(description="Whether it is kept.")
    temperature: float | None = Field(description="As given; null: the model's own.")
    text: JsonObject
    tool_choice: str | JsonObject
    tools: list[JsonObject]
    top_p: float | None = Field(description="As given; null: the model's own.")
    truncation: Literal["disabled"] = "disabled"
    usage: ResponsesUsage | None = None
    user: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None


class DeletedResponse(Response):
    """What is not kept any more."""

    id: str
    object: Literal["response"] = "response"
    deleted: Literal[True] = True
