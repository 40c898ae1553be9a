"""What conversations of Anthropic's API consist of: turns, and the blocks that they hold."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, Tag

from genai.requests.base import JsonObject, Request
from genai.requests.content import OtherPart, branch_of
from genai.requests.messages import Name


class TextBlock(Request):
    """A piece of text. Several are joined as they are."""

    type: Literal["text"]
    text: str


TextBlocks: TypeAlias = Annotated[list[TextBlock], Field(fail_fast=True, max_length=1000)]


class DocumentSource(Request):
    """Where a document's text is, if it is here at all."""

    type: str
    data: str | None = None
    content: str | TextBlocks | None = None


class DocumentBlock(OtherPart):
    """A document. One that is text is read; of others the model is told that they were left out."""

    type: Literal["document"]
    source: DocumentSource
    title: str | None = None
    context: str | None = None

    @property
    def readable(self) -> str | None:
        """Its title, context and text."""
        text = self.source.data if self.source.type == "text" else self.source.content
        if text is None or self.source.type not in ("text", "content"):
            return None
        return "\n".join(part for part in (self.title, self.context, joined(text)) if part)


class SearchResultBlock(OtherPart):
    """What a search found."""

    type: Literal["search_result"]
    source: str | None = None
    title: str | None = None
    content: TextBlocks

    @property
    def readable(self) -> str | None:
        """Its title, its address and its text."""
        return "\n".join(part for part in (self.title, self.source, joined(self.content)) if part)


class ToolUseBlock(Request):
    """A call that the model made."""

    type: Literal["tool_use"]
    id: str
    name: Name
    input: JsonObject


ResultBlock: TypeAlias = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[DocumentBlock, Tag("document")]
    | Annotated[SearchResultBlock, Tag("search_result")]
    | Annotated[OtherPart, Tag("other")],
    branch_of("text", "document", "search_result"),
]


class ToolResultBlock(Request):
    """What a tool answered."""

    type: Literal["tool_result"]
    tool_use_id: str
    content: str | Annotated[list[ResultBlock], Field(fail_fast=True, max_length=1000)] | None = None
    is_error: bool | None = Field(None, description="If true, the model is told `Error: ` before the content.")


class ThinkingBlock(Request):
    """What the model thought before, for templates that show it. No signature is looked at: none are made here."""

    type: Literal["thinking"]
    thinking: str


UserBlock: TypeAlias = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ToolResultBlock, Tag("tool_result")]
    | Annotated[DocumentBlock, Tag("document")]
    | Annotated[SearchResultBlock, Tag("search_result")]
    | Annotated[OtherPart, Tag("other")],
    branch_of("text", "tool_result", "document", "search_result"),
]
AssistantBlock: TypeAlias = Annotated[
    Annotated[TextBlock, Tag("text")]
    | Annotated[ToolUseBlock, Tag("tool_use")]
    | Annotated[ThinkingBlock, Tag("thinking")]
    | Annotated[OtherPart, Tag("other")],
    branch_of("text", "tool_use", "thinking"),
]


class SystemTurn(Request):
    """Instructions between the turns."""

    role: Literal["system"]
    content: str | TextBlocks


class UserTurn(Request):
    """What the user says, and what tools answered."""

    role: Literal["user"]
    content: str | Annotated[list[UserBlock], Field(fail_fast=True, max_length=1000)]


class AssistantTurn(Request):
    """What the model said before. Blocks of other servers (their tools, thoughts that they hide) are left out."""

    role: Literal["assistant"]
    content: str | Annotated[list[AssistantBlock], Field(fail_fast=True, max_length=1000)]

    @property
    def has_call(self) -> bool:
        """Whether it calls a tool."""
        return not isinstance(self.content, str) and any(isinstance(block, ToolUseBlock) for block in self.content)


Turn: TypeAlias = Annotated[SystemTurn | UserTurn | AssistantTurn, Field(discriminator="role")]
Turns: TypeAlias = Annotated[list[Turn], Field(fail_fast=True, min_length=1, max_length=4096)]


def joined(content: str | list[TextBlock]) -> str:
    """Texts as they are, with nothing between them."""
    return content if isinstance(content, str) else "".join(block.text for block in content)
