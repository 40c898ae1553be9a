"""Embeddings: what is answered at OpenAI's and llama.cpp's paths, and asked at llama.cpp's."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import AfterValidator, Field, model_validator

from genai.requests.base import ModelName, WholeRequest
from genai.requests.embeddings import InputTexts, InputTokens, few
from server.schemas.common import Response
from server.schemas.rerank import ReadUsage


class Embedding(Response):
    """One text's."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str = Field(description="Numbers; with `encoding_format` `base64` their bytes.")


class EmbeddingList(Response):
    """All of them, in the order of the texts."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: ReadUsage


class LlamaEmbeddingRequest(WholeRequest):
    """One or several texts, in llama.cpp's words."""

    writes: ClassVar[bool] = False
    says_something: ClassVar[frozenset[str]] = frozenset({"content", "input"})

    model: ModelName = None
    content: Annotated[str | InputTexts | InputTokens | None, AfterValidator(few)] = Field(
        None, description="A text, texts, or token ids."
    )
    input: Annotated[str | InputTexts | InputTokens | None, AfterValidator(few)] = Field(None, description="The same.")
    embd_normalize: Literal[2] | None = Field(None, description="Embeddings are made as the model's makers say.")

    @model_validator(mode="after")
    def _either(self) -> LlamaEmbeddingRequest:
        if (self.content is None) == (self.input is None):
            raise ValueError("give either content or input")
        return self

    @property
    def texts(self) -> str | list[str] | list[list[int]]:
        """What is to be embedded."""
        given = self.input if self.content is None else self.content
        assert given is not None, "one of them is there"
        if isinstance(given, str):
            return given
        texts = [each for each in given if isinstance(each, str)]
        return texts or [[each for each in given if isinstance(each, int)]]


class LlamaEmbedding(Response):
    """One text's, as a list of one row."""

    index: int
    embedding: list[list[float]]
