"""What several APIs share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator

JsonObject: TypeAlias = dict[str, JsonValue]
TokenId: TypeAlias = Annotated[int, Field(ge=0, lt=1 << 31)]
TokenIds: TypeAlias = Annotated[list[TokenId], Field(fail_fast=True)]
ModelName: TypeAlias = Annotated[
    str | None, Field(description="One of `GET /v1/models`; left out: the first of them.", examples=[None])
]

_MAX_FIELDS = 100


class Request(BaseModel):
    """A request, or a part of one: nothing is converted, nothing unknown is taken."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _bound(cls, value: object) -> object:
        """Each unknown field is an error of its own: a million of them would keep the server busy."""
        if isinstance(value, Mapping) and len(value) > _MAX_FIELDS:
            raise ValueError(f"must have at most {_MAX_FIELDS} fields, not {len(value)}")
        return value


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
