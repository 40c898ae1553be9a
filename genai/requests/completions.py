"""`POST /v1/completions`: what is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeAlias

from pydantic import Field

from genai.errors import RequestError
from genai.requests.base import TokenIds
from genai.requests.generation import GenerationRequest, TokenLimit, with_options

MAX_PROMPTS = 1024

Texts: TypeAlias = Annotated[list[str], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS)]
Tokens: TypeAlias = Annotated[TokenIds, Field(min_length=1)]
TokenLists: TypeAlias = Annotated[list[Tokens], Field(fail_fast=True, min_length=1, max_length=MAX_PROMPTS)]


@with_options("completion")
class CompletionRequest(GenerationRequest):
    """One or several texts to be continued."""

    prompt: str | Texts | Tokens | TokenLists = Field(description="A text, token ids, or a list of either.")
    max_tokens: TokenLimit | None = Field(
        None, description="Tokens to generate at most; null: 16, -1: to the end. 0 with `echo` scores the prompt."
    )
    logprobs: int | None = Field(None, ge=0, le=20, description="Report each token, and so many likely others.")
    best_of: int | None = Field(None, ge=1, description="Must equal `n`: texts are not compared.")


def prompts_of(body: CompletionRequest) -> list[str | list[int]]:
    """The prompts, one by one."""
    prompt = body.prompt
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt[0], int):
        return [[token for token in prompt if isinstance(token, int)]]
    return [each for each in prompt if isinstance(each, str | list)]


def completion_options(body: CompletionRequest, given: Mapping[str, object]) -> dict[str, object]:
    """All options of a request; given: those of the table. Raises: RequestError."""
    if body.best_of is not None and body.best_of != given.get("n", 1):
        message = f"best_of={body.best_of}: must equal n; texts are not compared here"
        raise RequestError(message, code="unsupported_parameter", param="best_of")
    options = dict(given)
    if body.max_tokens is not None:
        options["max_new_tokens"] = body.max_tokens
    if body.logprobs is not None:
        options |= {"logprobs": True, "top_logprobs": body.logprobs}
        if given.get("echo"):
            options["prompt_logprobs"] = body.logprobs
    return options
