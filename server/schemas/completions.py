"""`POST /v1/completions`: what is answered."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from server.schemas.common import Response, Timings, Usage


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
