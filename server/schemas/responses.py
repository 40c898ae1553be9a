"""`POST /v1/responses`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import Discriminator, Field, JsonValue, StringConstraints, Tag

from genai.requests.base import JsonObject, ModelName, Request, WholeRequest
from genai.requests.chat import JsonObjectFormat, JsonSchema, TextFormat
from genai.requests.generation import ChatTemplateOptions, TokenLimit
from genai.requests.messages import CalledFunction, Name
from server.schemas.common import Response

ItemStatus: TypeAlias = Literal["in_progress", "completed", "incomplete"]
Nothing: TypeAlias = Annotated[list[JsonValue], Field(max_length=0)]


class _Item(Request):
    id: str | None = Field(None, description="Its id; changes nothing, since nothing is kept.")
    status: ItemStatus | None = Field(None, description="What became of it; changes nothing.")


class InputText(Request):
    """A piece of a message's text. `output_text` is what the model said before."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: Nothing | None = Field(None, description="Of `output_text`: none are made here.")
    logprobs: Nothing | None = Field(None, description="Of `output_text`: none are told here.")


class InputRefusal(Request):
    """What the model said when it refused."""

    type: Literal["refusal"]
    refusal: str


InputParts: TypeAlias = Annotated[
    list[Annotated[InputText | InputRefusal, Field(discriminator="type")]],
    Field(fail_fast=True, min_length=1, max_length=1000),
]


class InputMessage(_Item):
    """A message. `developer` is OpenAI's newer name for `system`, which is what templates are given."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | InputParts


class InputCall(CalledFunction, _Item):
    """A call that the model made."""

    type: Literal["function_call"]
    call_id: str


class ResultText(Request):
    """A piece of a result."""

    type: Literal["input_text"]
    text: str


class InputCallOutput(_Item):
    """What a function answered."""

    type: Literal["function_call_output"]
    call_id: str
    output: str | Annotated[list[ResultText], Field(fail_fast=True, min_length=1, max_length=1000)]


class ReasoningText(Request):
    """A piece of the model's reasoning."""

    type: Literal["reasoning_text"]
    text: str


class InputReasoning(_Item):
    """What the model thought before, for templates that show it."""

    type: Literal["reasoning"]
    content: Annotated[list[ReasoningText], Field(fail_fast=True, max_length=1000)] | None = None
    summary: Nothing | None = Field(None, description="None are made here.")
    encrypted_content: None = Field(None, description="Reasoning is told in the open here.")


def _item_type(item: object) -> str | None:
    """Messages need not say that they are some."""
    kind = item.get("type", "message") if isinstance(item, Mapping) else getattr(item, "type", None)
    return kind if isinstance(kind, str) else None


InputItem: TypeAlias = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[InputCall, Tag("function_call")]
    | Annotated[InputCallOutput, Tag("function_call_output")]
    | Annotated[InputReasoning, Tag("reasoning")],
    Discriminator(
        _item_type,
        custom_error_type="unknown_item",
        custom_error_message="Input should be an item of type 'message', 'function_call', 'function_call_output' or "
        "'reasoning'",
    ),
]
InputItems: TypeAlias = Annotated[list[InputItem], Field(fail_fast=True, min_length=1, max_length=4096)]


class FunctionTool(Request):
    """A function that the model may call: other tools are not run here."""

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: JsonObject | None = Field(None, description="A JSON schema of type object.")
    strict: bool | None = Field(
        None, description="Whether arguments must follow the schema to the letter; null: false, as in chat completions."
    )


class ChosenFunction(Request):
    """The function that must be called."""

    type: Literal["function"]
    name: Name


class JsonSchemaText(JsonSchema):
    """JSON that follows a schema."""

    type: Literal["json_schema"]


class TextConfig(Request):
    """What the text must be."""

    format: Annotated[TextFormat | JsonObjectFormat | JsonSchemaText, Field(discriminator="type")] | None = None


Label: TypeAlias = Annotated[str, StringConstraints(max_length=512)]


class ResponsesRequest(WholeRequest):
    """What the model is to answer. Null is as good as left out: the model's own default."""

    model: ModelName = None
    input: str | InputItems = Field(description="What the user says, or the whole conversation.")
    instructions: str | None = Field(None, description="A system message before it.")
    max_output_tokens: TokenLimit | None = Field(
        None, description="Tokens to generate at most, reasoning included; -1: until the answer or the context ends."
    )
    temperature: float | None = Field(None, ge=0, le=2, description="0: always the most probable token.")
    top_p: float | None = Field(None, ge=0, le=1, description="Sample from the smallest set this probable; 0: off.")
    stream: bool | None = Field(None, description="Send the answer as typed server-sent events while it is written.")
    text: TextConfig | None = None
    tools: Annotated[list[FunctionTool], Field(fail_fast=True, max_length=128)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenFunction | None = None
    parallel_tool_calls: bool | None = None
    metadata: Annotated[dict[str, Label], Field(max_length=16)] | None = Field(
        None, description="Labels; they change nothing, and are told with the answer."
    )
    user: str | None = Field(None, description="A label; it changes nothing, and is not kept.")
    safety_identifier: str | None = Field(None, description="A label; it changes nothing, and is not kept.")
    prompt_cache_key: str | None = Field(
        None, description="Changes nothing: prompts that begin alike share what is cached, whatever their key."
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


class OutputCall(Response):
    """A call that the model makes."""

    type: Literal["function_call"] = "function_call"
    id: str
    call_id: str = Field(description="For the `function_call_output` that answers it.")
    name: str
    arguments: str = Field(description="A JSON object, as text.")
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


OutputItem: TypeAlias = OutputMessage | OutputCall | OutputReasoning


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
    status: Literal["in_progress", "completed", "incomplete", "failed"]
    background: Literal[False] = False
    error: ResponseFailure | None = None
    incomplete_details: IncompleteDetails | None = None
    instructions: str | None
    max_output_tokens: int | None
    metadata: dict[str, str]
    model: str
    output: list[OutputItem]
    parallel_tool_calls: bool
    previous_response_id: None = None
    store: Literal[False] = False
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
