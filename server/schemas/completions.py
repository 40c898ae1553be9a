"""`POST /v1/completions`."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from server.schemas.common import Response, TokenIds
from server.schemas.generation import GenerationRequest, Timings, Usage

MAX_PROMPTS = 1024

Texts: TypeAlias = Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS)]
Tokens: TypeAlias = Annotated[TokenIds, Field(min_length=1)]
TokenLists: TypeAlias = Annotated[list[Tokens], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS)]


class CompletionRequest(GenerationRequest):
    """One or several texts to be continued."""

    prompt: str | Texts | Tokens | TokenLists = Field(description="A text, token ids, or a list of either.")
    max_tokens: int | None = Field(
        None, ge=0, lt=1 << 31, description="Tokens to generate at most; null: 16. 0 with `echo` scores the prompt."
    )
    logprobs: int | None = Field(None, ge=0, le=20, description="Report each token, and so many likely others.")
    echo: bool | None = Field(None, description="Begin the text with the prompt.")
    best_of: int | None = Field(None, ge=1, description="Must equal `n`: texts are not compared.")
    suffix: Literal[""] | None = Field(None, description="Text after the completion: not supported.")


class CompletionLogprobs(Response):
    """Log probabilities, in OpenAI's older form: lists side by side, one entry a token."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int] = Field(description="Where each token begins in `text`, in characters.")


class CompletionChoice(Response):
    """One text. With several prompts, those of the first one come first."""

    index: int
    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: Literal["stop", "length"]


class Completion(Response):
    """The texts."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    system_fingerprint: str = Field(description="Changes when the model's package does.")
    choices: list[CompletionChoice]
    usage: Usage
    timings: Timings
