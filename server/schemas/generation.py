"""What every answer says of its cost."""

from __future__ import annotations

from pydantic import Field

from server.schemas.common import Response


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
