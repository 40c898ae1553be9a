"""What all requests share: nothing is converted, nothing unknown is taken, and what is wrong is told by its field."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from genai.errors import RequestError

JsonObject: TypeAlias = dict[str, JsonValue]
TokenId: TypeAlias = Annotated[int, Field(ge=0, lt=1 << 31)]
TokenIds: TypeAlias = Annotated[list[TokenId], Field(fail_fast=True)]
ModelName: TypeAlias = Annotated[
    str | None, Field(description="One of `GET /v1/models`; left out: the first of them.", examples=[None])
]

_MAX_FIELDS = 100


class Request(BaseModel):
    """A request, or a part of one."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _bound(cls, value: object) -> object:
        """Each unknown field is an error of its own: a million of them would keep the server busy."""
        if isinstance(value, Mapping) and len(value) > _MAX_FIELDS:
            raise ValueError(f"must have at most {_MAX_FIELDS} fields, not {len(value)}")
        return value


AnyRequest = TypeVar("AnyRequest", bound=Request)


def read(kind: type[AnyRequest], body: Mapping[str, object]) -> AnyRequest:
    """A request from its JSON. Raises: RequestError."""
    try:
        return kind.model_validate(body)
    except ValidationError as error:
        raise invalid(error.errors(), body) from None


def invalid(errors: Sequence[Mapping[str, object]], body: object) -> RequestError:
    """What a validation found, told by the field that is at fault.

    Of the errors of a union's branches those that lie deepest say most.
    """
    places = [_place(error, body) for error in errors]
    chosen = max(range(len(errors)), key=lambda index: (len(places[index]), -index))
    error, place = errors[chosen], places[chosen]
    param = _path(place)
    kind, value = error["type"], _shown(error.get("input"))
    if kind == "extra_forbidden":
        return RequestError(f"{param} is not supported", code="unsupported_parameter", param=param)
    if kind == "missing":
        return RequestError(f"{param} is missing", code="missing_required_parameter", param=param)
    reasons = dict.fromkeys(_reason(str(each["msg"])) for each, at in zip(errors, places, strict=True) if at == place)
    message = " or ".join(reasons).replace(" or must be ", " or ")
    code = "invalid_type" if str(kind).endswith("_type") else "invalid_value"
    return RequestError(f"{param}={value}: {message}" if param else message, code=code, param=param or None)


def _place(error: Mapping[str, object], body: object) -> tuple[str | int, ...]:
    """Where in the body an error is: pydantic's location without the names of union branches."""
    place: list[str | int] = []
    location = error["loc"]
    parts = list(location) if isinstance(location, tuple | list) else []
    parts = parts[1:] if parts[:1] in (["body"], ["query"], ["path"]) else parts
    for part, following in itertools.zip_longest(parts, parts[1:]):
        if _has(body, part):
            inner = body[part]  # type: ignore[index]
            if _has(body, following) and not _has(inner, following):
                continue  # a branch that is called like a field: {"type": "text", "text": "…"}
            body = inner
            place.append(part)
    if error["type"] == "missing":
        place.append(parts[-1])
    return tuple(place)


def _has(value: object, part: object) -> bool:
    """Whether a value has something there."""
    if isinstance(value, Mapping):
        return part in value
    return isinstance(value, list) and isinstance(part, int) and part < len(value)


def _path(place: Sequence[str | int]) -> str:
    text = ""
    for part in place:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return _shortened(text, 100)


def _reason(message: str) -> str:
    message = message.removeprefix("Value error, ").replace("Input should", "must").replace("should have", "must have")
    return message[:1].lower() + message[1:]


def _shown(value: object) -> str:
    """A value in a message, cut short."""
    return _shortened(json.dumps(value, ensure_ascii=False, default=str), 60)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
