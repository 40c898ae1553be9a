"""Fields that every request for a text has; those of options are made from the table of options."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, Optional, TypeAlias, TypeVar

from pydantic import AfterValidator, Field, StringConstraints, create_model

from genai.options.generation_config import OPTIONS
from genai.options.option import Body, Entry, Served
from genai.options.rules import Number, TokenIds, Whole, biases, strings, switch, words
from genai.requests import base
from genai.requests.base import JsonObject, ModelName, Request, WholeRequest

_MAX_BIASES = 4096


TokenLimit: TypeAlias = Annotated[int, Field(ge=-1, lt=1 << 31)]
"""Tokens to generate at most; -1: no limit of the request's own."""


class StreamOptions(Request):
    """How a stream is told."""

    include_usage: bool | None = Field(None, description="End with an event that has `usage` and no choices.")


class GenerationRequest(WholeRequest):
    """What chat and plain completions have in common. Null is as good as left out: the model's own default."""

    model: ModelName = None
    stream: bool | None = Field(None, description="Send the text as server-sent events while it is written.")
    stream_options: StreamOptions | None = Field(None, description="Changes only a stream.")
    modalities: list[Literal["text"]] | None = None


def served(kind: Body) -> dict[str, Entry]:
    """The options that requests of a kind have fields of, by the fields' names."""
    entries = (entry for entry in OPTIONS.values() if entry.option.served is not None)
    return {entry.field_name: entry for entry in entries if kind in entry.option.bodies}


AnyGeneration = TypeVar("AnyGeneration", bound=GenerationRequest)


def with_options(kind: Body) -> Callable[[type[AnyGeneration]], type[AnyGeneration]]:
    """Give a class of requests the fields of the options that its kind has."""

    def decorate(model: type[AnyGeneration]) -> type[AnyGeneration]:
        fields: dict[str, Any] = {name: _field(entry) for name, entry in served(kind).items()}
        return create_model(
            model.__name__, __base__=model, __module__=model.__module__, __doc__=model.__doc__, **fields
        )

    return decorate


def options_of(body: GenerationRequest, kind: Body) -> dict[str, object]:
    """The options that a request's fields give; what it leaves out is the model's own default."""
    given = {entry.name: getattr(body, name) for name, entry in served(kind).items()}
    return {name: value for name, value in given.items() if value is not None}


def field_of(error: Exception) -> str | None:
    """The field that an error of generation is about: its message begins with an option."""
    return _FIELDS.get(re.split(r"[^a-z_]", str(error), maxsplit=1)[0])


_FIELDS: Mapping[str, str] = {
    **{entry.name: name for kind in ("chat", "completion") for name, entry in served(kind).items()},
    "max_new_tokens": "max_tokens",
    "logprobs": "logprobs",
    "json_schema": "response_format",
    "tools": "tools",
    "tool_choice": "tool_choice",
    "template_options": "chat_template_kwargs",
}


def _field(entry: Entry) -> tuple[object, object]:
    """An option's field, as pydantic makes one."""
    field = entry.option.served or Served()
    says = ("Extension. " if field.is_extension else "") + (field.says or entry.option.says)
    return Optional[_form(entry, field)], Field(None, description=says)  # noqa: UP045 (it is made here)


def _form(entry: Entry, field: Served) -> object:
    """The type of an option's field, within the narrower bounds that the API has."""
    rule = entry.option.rule
    most = None if field.most is None else int(field.most)
    if rule is switch:
        return bool
    if rule in (strings, words):
        one = Annotated[str, StringConstraints(min_length=1, max_length=field.longest)]
        several = Annotated[list[one], Field(min_length=field.least, max_length=most)]
        return one | several if field.takes_one else several
    if rule is biases:
        bias = Annotated[float, Field(ge=field.least, le=field.most)]
        return Annotated[dict[str, bias], Field(max_length=_MAX_BIASES), AfterValidator(_by_token)]
    match rule:
        case Number():
            least = 0 if rule.off is not None and rule.above == 0 else rule.least
            least = least if field.least is None else field.least
            above = rule.above if least is None else None
            return Annotated[float, Field(ge=least, gt=above, le=rule.most if field.most is None else field.most)]
        case Whole():
            below = None if field.most is not None else field.below or 1 << 31
            has_none = rule.off is not None or -1 in rule.none
            return Annotated[int, Field(ge=-1 if has_none else rule.least, le=most, lt=below)]
        case TokenIds():
            return Annotated[base.TokenIds, Field(min_length=rule.least or None, max_length=most)]
    return Annotated[str, StringConstraints(min_length=1)]


def _by_token(given: Mapping[str, float]) -> dict[int, float]:
    for token in given:
        if not token.isdecimal() or not token.isascii() or len(token) > 10:
            raise ValueError(f"maps token ids to numbers; {token[:40]!r} is no token id")
    return {int(token): bias for token, bias in given.items()}


_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_RESERVED = frozenset({"messages", "tools", "add_generation_prompt", "continue_final_message", "self"})


def _variables(options: JsonObject) -> JsonObject:
    for name in options:
        if name in _RESERVED or not _VARIABLE.fullmatch(name):
            raise ValueError(f"{name[:64]!r} cannot be set")
    return options


ChatTemplateOptions: TypeAlias = Annotated[JsonObject, Field(max_length=32), AfterValidator(_variables)]
