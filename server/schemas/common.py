"""What several APIs share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class Response(BaseModel):
    """A response, or a part of one."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ErrorDetail(Response):
    """What went wrong."""

    message: str = Field(description="For people: what is wrong, what is allowed.")
    type: str = Field(description="The kind of error.")
    param: str | None = Field(description="The field at fault, as a path: `messages[0].role`.")
    code: str | None = Field(description="A short name of the error.")


class ErrorBody(Response):
    """Every error."""

    error: ErrorDetail


class PromptTokensDetails(Response):
    """Where a prompt's tokens came from."""

    cached_tokens: int = Field(description="Those whose keys and values were in the prefix cache.")


class Usage(Response):
    """Tokens, of all texts of a request together."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptTokensDetails


class Timings(Response):
    """Extension: seconds, of a request's first text."""

    queue_seconds: float = Field(description="Waiting for a row of the cache.")
    time_to_first_token: float
    total_seconds: float
    tokens_per_second: float = Field(description="After the first token.")
