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
