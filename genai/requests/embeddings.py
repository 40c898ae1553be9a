"""`POST /v1/embeddings`: what is asked for."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, Field

from genai.requests.base import ModelName, TokenIds, WholeRequest

MAX_INPUTS = 2048
"""Texts of one request, as OpenAI has it."""

InputTexts: TypeAlias = Annotated[list[str], Field(fail_fast=True, min_length=1)]
InputTokens: TypeAlias = Annotated[TokenIds, Field(min_length=1)]
InputTokenLists: TypeAlias = Annotated[list[InputTokens], Field(fail_fast=True, min_length=1)]


def few(given: object) -> object:
    """Raises: ValueError for more texts than are taken."""
    if isinstance(given, list) and len(given) > MAX_INPUTS and not isinstance(given[0], int):
        raise ValueError(f"has {len(given)} texts; at most {MAX_INPUTS} are taken in one request")
    return given


class EmbeddingRequest(WholeRequest):
    """One or several texts to be embedded."""

    writes: ClassVar[bool] = False
    says_something: ClassVar[frozenset[str]] = frozenset({"input"})

    model: ModelName = None
    input: Annotated[str | InputTexts | InputTokens | InputTokenLists, AfterValidator(few)] = Field(
        description="A text, token ids, or a list of either."
    )
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="Numbers, or the bytes of little-endian float32 in base64. Null: float."
    )
    dimensions: int | None = Field(None, ge=1, description="Only so many first numbers of each, made one long again.")
    prompt_name: str | None = Field(None, description="Extension. The model's own text that stands in front: `query`.")
    truncate: bool | None = Field(None, description="Extension. Cut texts that are too long. Null: they are refused.")

    @property
    def texts(self) -> str | list[str] | list[list[int]]:
        """What is to be embedded; several texts, or one."""
        if isinstance(self.input, str):
            return self.input
        if isinstance(self.input[0], int):
            return [[each for each in self.input if isinstance(each, int)]]
        texts = [each for each in self.input if isinstance(each, str)]
        return texts or [each for each in self.input if isinstance(each, list)]
