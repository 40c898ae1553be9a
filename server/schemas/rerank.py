"""`POST /v1/rerank`, as Jina, Cohere, vLLM and llama.cpp have it."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from genai.requests.base import ModelName, Request, WholeRequest
from server.schemas.common import Response

MAX_DOCUMENTS = 2048


class TextDocument(Request):
    """A document as an object."""

    text: str


class RerankRequest(WholeRequest):
    """Documents to be told how well they answer a query."""

    writes: ClassVar[bool] = False
    says_something: ClassVar[frozenset[str]] = frozenset({"query"})

    model: ModelName = None
    query: str
    documents: Annotated[list[str | TextDocument], Field(fail_fast=True, min_length=1, max_length=MAX_DOCUMENTS)] = (
        Field(description="Texts, or objects with `text`.")
    )
    top_n: int | None = Field(None, ge=1, description="Tell so many of the best; null: all.")
    return_documents: bool | None = Field(None, description="Tell the texts, too.")
    instruction: str | None = Field(None, description="Extension. What is looked for, in the model's prompt.")

    @property
    def texts(self) -> list[str]:
        """The documents' texts."""
        return [each if isinstance(each, str) else each.text for each in self.documents]


class ToldDocument(Response):
    """A document's text."""

    text: str


class RerankResult(Response):
    """One document, by its place in the request."""

    index: int
    relevance_score: float = Field(description="From 0 to 1.")
    document: ToldDocument | None = Field(None, description="Where `return_documents` asks for it.")


class ReadUsage(Response):
    """Tokens of all prompts together; none are written."""

    prompt_tokens: int
    total_tokens: int


class Reranked(Response):
    """The documents, the best first."""

    id: str
    object: Literal["list"] = "list"
    model: str
    results: list[RerankResult]
    usage: ReadUsage
