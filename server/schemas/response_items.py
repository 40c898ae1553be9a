"""What `POST /v1/responses` is given: the items of a conversation, and tools."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from genai.chat.tools import MAX_TOOLS
from genai.requests.base import JsonObject, Request
from genai.requests.content import Parts, branch_of
from genai.requests.messages import CalledFunction, Name


class InputMessage(Request):
    """A message. `developer` is OpenAI's newer name for `system`, which is what templates are given."""

    type: Literal["message"] = "message"
    role: Literal["user", "assistant", "system", "developer"]
    content: str | Parts


class InputCall(CalledFunction):
    """A call that the model made. namespace: that of the tool, if it is in one."""

    type: Literal["function_call"]
    call_id: str
    namespace: Name | None = None


class InputCustomCall(Request):
    """A call of a tool that takes text."""

    type: Literal["custom_tool_call"]
    call_id: str
    name: Name
    namespace: Name | None = None
    input: str


class InputCallOutput(Request):
    """What a tool answered."""

    type: Literal["function_call_output", "custom_tool_call_output"]
    call_id: str
    output: str | Parts | None = None


class InputMcpCall(CalledFunction):
    """A call that another server made and answered."""

    type: Literal["mcp_call"]
    id: str
    output: str | None = None
    error: str | JsonObject | None = None


class ReasoningPiece(Request):
    """A piece of the model's reasoning, or of its summary."""

    type: str
    text: str = ""


ReasoningPieces: TypeAlias = Annotated[list[ReasoningPiece], Field(fail_fast=True, max_length=1000)]


class InputReasoning(Request):
    """What a model thought before, in full or as a summary, for templates that show it. Who encrypts it keeps it."""

    type: Literal["reasoning"]
    content: ReasoningPieces | None = None
    summary: ReasoningPieces | None = None


class ItemReference(Request):
    """An item of a response that is kept."""

    type: Literal["item_reference"] = "item_reference"
    id: str


class OtherItem(Request):
    """What another server did, such as a search of its own: skipped."""

    type: str


_KNOWN_ITEMS = (
    "message",
    "function_call",
    "custom_tool_call",
    "function_call_output",
    "custom_tool_call_output",
    "mcp_call",
    "reasoning",
    "item_reference",
)


def _item_type(item: object) -> str:
    """Messages need not say that they are some, nor items of these that they are references."""
    kind = item.get("type") if isinstance(item, Mapping) else getattr(item, "type", None)
    if kind is None:
        is_reference = isinstance(item, Mapping) and "id" in item and not item.keys() & {"role", "content"}
        return "item_reference" if is_reference else "message"
    return kind if isinstance(kind, str) and kind in _KNOWN_ITEMS else "other"


InputItem: TypeAlias = Annotated[
    Annotated[InputMessage, Tag("message")]
    | Annotated[InputCall, Tag("function_call")]
    | Annotated[InputCustomCall, Tag("custom_tool_call")]
    | Annotated[InputCallOutput, Tag("function_call_output")]
    | Annotated[InputCallOutput, Tag("custom_tool_call_output")]
    | Annotated[InputMcpCall, Tag("mcp_call")]
    | Annotated[InputReasoning, Tag("reasoning")]
    | Annotated[ItemReference, Tag("item_reference")]
    | Annotated[OtherItem, Tag("other")],
    Discriminator(_item_type),
]
InputItems: TypeAlias = Annotated[list[InputItem], Field(fail_fast=True, max_length=4096)]


class FunctionTool(Request):
    """A function that the model may call."""

    type: Literal["function"]
    name: Name
    description: str | None = None
    parameters: JsonObject | None = Field(None, description="A JSON schema of type object.")
    strict: bool | None = Field(
        None, description="Whether arguments must follow the schema to the letter; null: false, as in chat completions."
    )


class TextInput(Request):
    """Any text."""

    type: Literal["text"]


class GrammarInput(Request):
    """Text that follows a grammar."""

    type: Literal["grammar"]
    syntax: Literal["lark", "regex"]
    definition: str


class CustomTool(Request):
    """A tool that takes text instead of arguments."""

    type: Literal["custom"]
    name: Name
    description: str | None = None
    format: Annotated[TextInput | GrammarInput, Field(discriminator="type")] | None = None


class HostedTool(Request):
    """A tool that other servers run, such as a search of the web: left out, since nothing is run here."""

    type: str


Callable: TypeAlias = Annotated[
    Annotated[FunctionTool, Tag("function")]
    | Annotated[CustomTool, Tag("custom")]
    | Annotated[HostedTool, Tag("other")],
    branch_of("function", "custom"),
]


class NamespaceTool(Request):
    """Tools that have a first name together."""

    type: Literal["namespace"]
    name: Name
    description: str | None = None
    tools: Annotated[list[Callable], Field(fail_fast=True, max_length=MAX_TOOLS)]


ResponseTool: TypeAlias = Annotated[
    Annotated[FunctionTool, Tag("function")]
    | Annotated[CustomTool, Tag("custom")]
    | Annotated[NamespaceTool, Tag("namespace")]
    | Annotated[HostedTool, Tag("other")],
    branch_of("function", "custom", "namespace"),
]
ResponseTools: TypeAlias = Annotated[list[ResponseTool], Field(fail_fast=True, max_length=MAX_TOOLS)]


class ChosenTool(Request):
    """The tool that must be called."""

    type: Literal["function", "custom"]
    name: Name
    namespace: Name | None = None


NamedTool: TypeAlias = Annotated[
    Annotated[ChosenTool, Tag("function")] | Annotated[ChosenTool, Tag("custom")] | Annotated[HostedTool, Tag("other")],
    branch_of("function", "custom"),
]


class AllowedTools(Request):
    """Some of the tools may be called; if the mode is `required`, one of them must be."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[list[NamedTool], Field(fail_fast=True, min_length=1, max_length=MAX_TOOLS)]
