"""What all requests share: nothing is converted, null is as good as left out, what is wrong is told by its field.

Strict with the model, lenient with the client: what can be honoured is honoured, what changes nothing is ignored, and
what would silently give another result than was asked for is refused by name.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, ClassVar, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from genai.errors import RequestError
from genai.requests.foreign import HARMLESS, REFUSED, RENAMED, Refused

JsonObject: TypeAlias = dict[str, JsonValue]
TokenId: TypeAlias = Annotated[int, Field(ge=0, lt=1 << 31)]
TokenIds: TypeAlias = Annotated[list[TokenId], Field(fail_fast=True)]
ModelName: TypeAlias = Annotated[
    str | None, Field(description="One of `GET /v1/models`; left out: the first of them.", examples=[None])
]

_MAX_FIELDS = 100
_MAX_SHOWN = 60


class Request(BaseModel):
    """A request, or a part of one. A part's unknown fields are ignored."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _given(cls, value: object) -> object:
        """The fields that are not null."""
        if not isinstance(value, Mapping):
            return value
        if len(value) > _MAX_FIELDS:
            raise ValueError(f"must have at most {_MAX_FIELDS} fields, not {len(value)}")
        return {name: item for name, item in value.items() if item is not None}


class WholeRequest(Request):
    """A whole request: empty fields are as good as left out, if they may be; what would change the result is refused.

    The rest of what is unknown is ignored: `ignored_fields` tells what.
    """

    says_something: ClassVar[frozenset[str]] = frozenset()
    """Fields that may be left out, and that say something when they are empty."""
    writes: ClassVar[bool] = True
    """Whether it asks for a text."""

    @model_validator(mode="before")
    @classmethod
    def _asked_for(cls, value: object) -> object:
        """The fields that ask for something, by their own names."""
        if not isinstance(value, Mapping):
            return value
        known = known_fields(cls)
        asked: dict[str, object] = {}
        for name, item in value.items():
            own = _own_name(name, known, value)
            if not _is_empty(item) or known.get(own, False) or own in cls.says_something:
                asked[own] = item
        for name in sorted(asked.keys() - known):
            refused = _refused(name, known)
            if refused is None or (refused.is_of_text and not cls.writes) or not _asks(asked[name], refused.off):
                continue
            reason = f"{name} is not supported: {refused.why}"
            raise PydanticCustomError("refused_field", "{reason}", {"reason": reason, "name": name})
        return asked


def known_fields(kind: type[BaseModel]) -> dict[str, bool]:
    """The names of a request's fields as clients write them, and whether each must be given."""
    return {field.alias or name: field.is_required() for name, field in kind.model_fields.items()}


def ignored_fields(kind: type[WholeRequest], body: Mapping[str, object]) -> list[str]:
    """The fields of a body that ask for something nobody here knows, so that they are ignored."""
    known = known_fields(kind)
    told = known.keys() | HARMLESS.keys() | REFUSED.keys()
    return [name for name, value in body.items() if _own_name(name, known, body) not in told and not _is_empty(value)]


def unknown_field(name: str) -> RequestError:
    """The refusal of a field that nobody here knows."""
    name = _shortened(name, 100)
    return RequestError(f"{name} is not supported", code="unsupported_parameter", param=name)


def _own_name(name: str, known: Mapping[str, bool], body: Mapping[str, object]) -> str:
    """What a field is called here, unless it is given by that name too."""
    own = RENAMED.get(name, name)
    return own if own in known and _is_empty(body.get(own)) else name


def _refused(name: str, known: Mapping[str, bool]) -> Refused | None:
    """Why an unknown field is refused, by whatever name it comes; None if it is not."""
    own = RENAMED.get(name, name)
    return REFUSED.get(name if own in known else own)


def _is_empty(value: object) -> bool:
    return value is None or (isinstance(value, str | list | Mapping) and not value)


def _asks(value: object, off: tuple[object, ...]) -> bool:
    """Whether the value of a refused field asks for anything."""
    return bool(value) and value not in off


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
    if kind == "refused_field":
        told = error["ctx"]
        assert isinstance(told, Mapping), "it was raised with what is told"
        return RequestError(str(told["reason"]), code="unsupported_parameter", param=str(told["name"]))
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
    if parts and not place and isinstance(parts[0], str):
        place.append(parts[0])  # given by another name
    elif error["type"] == "missing" and body is not None:
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
    if isinstance(value, str):
        value = value[:_MAX_SHOWN]  # it may have megabytes, and so may what follows
    pieces = json.JSONEncoder(ensure_ascii=False, default=str).iterencode(value)
    return _shortened("".join(itertools.islice(pieces, _MAX_SHOWN)), _MAX_SHOWN)


def _shortened(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
