"""Adapters as llama.cpp's clients ask for them: by number, with a scale. One of them changes a text, never two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from server.context import request_info
from server.errors import ApiError
from server.models import ModelPool, ServedModel
from server.schemas.adapters import LlamaScale

if TYPE_CHECKING:
    from genai.llm.adapters import AdapterChoice


def asked(models: ModelPool, model: ServedModel, scales: Sequence[LlamaScale]) -> AdapterChoice | None:
    """What a request's scales choose for its model; None for the base. Raises: ApiError."""
    if (named := request_info().adapter) is not None:
        raise _wrong(f"the model that is named is {named!r}, an adapter already: name {model.name!r}", "lora")
    chosen = _chosen(models, scales, "lora")
    for name in chosen.keys() - model.adapters.keys():
        raise _wrong(f"{name!r} is an adapter of another model than {model.name!r}", "lora")
    return next(iter(chosen.items()), None)


def make_usual(models: ModelPool, scales: Sequence[LlamaScale]) -> None:
    """Have requests get these that name a model and no adapter. Raises: ApiError; nothing has changed then."""
    chosen = _chosen(models, scales, None)
    for model in models.models:
        model.usual = next(((name, scale) for name, scale in chosen.items() if name in model.adapters), None)


def _chosen(models: ModelPool, scales: Sequence[LlamaScale], param: str | None) -> dict[str, float]:
    """Names and scales of those that are not off, one for each model at most. Raises: ApiError."""
    known = {number: name for name, number in models.adapter_numbers.items()}
    given: dict[str, float] = {}
    for each in scales:
        if each.id not in known:
            told = ", ".join(f"{number} ({name})" for number, name in sorted(known.items())) or "none"
            raise _wrong(f"no adapter has the number {each.id}; there are: {told}", param)
        given[known[each.id]] = each.scale
    chosen = {name: scale for name, scale in given.items() if scale}
    owners = [models.owner_of(name) for name in chosen]
    if len({*owners}) < len(owners):
        raise _wrong("only one adapter changes a text: merge them into one, and load that", param)
    return chosen


def _wrong(message: str, param: str | None) -> ApiError:
    return ApiError(400, message if param is None else f"{param}: {message}", code="invalid_value", param=param)
