"""Checks on values of options, where configurations are made: what is wrong is refused with its name and the rule."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Iterable
from typing import Any, cast

from genai.errors import ConfigError

SIZE_MAX = 2**64 - 1
"""How the preview interface writes "no limit"."""


def set_field(config: object, name: str, value: object) -> None:
    """Write into a frozen configuration that is being made."""
    object.__setattr__(config, name, value)


def set_defaults(config: Any) -> None:
    """Give the fields that are None their defaults."""
    for item in dataclasses.fields(config):
        if getattr(config, item.name) is None:
            made = item.default if item.default_factory is dataclasses.MISSING else item.default_factory()
            set_field(config, item.name, made)


def whole(value: Any, name: str, least: int, rule: str) -> int:
    """A whole number, NumPy's too. Raises: ConfigError, TypeError."""
    number = operator.index(value)
    require(number >= least and not isinstance(value, bool), name, value, rule)
    return number


def size(value: Any, name: str) -> int:
    """How many; SIZE_MAX, and -1 as vLLM writes it, are "off"."""
    return 0 if value in (SIZE_MAX, -1) else whole(value, name, 0, "at least 0 (0: off)")


def unlimited(value: Any, name: str, at_least: int = 1) -> int | None:
    """A limit; None and SIZE_MAX are none."""
    return None if value in (None, SIZE_MAX) else whole(value, name, at_least, f"at least {at_least}, or None")


def strings(value: object, name: str) -> tuple[str, ...]:
    """One string for itself, None for none. Raises: ConfigError."""
    items = () if value is None else (value,) if isinstance(value, str) else tuple(cast(Iterable[object], value))
    if any(not isinstance(item, str) or not item for item in items):
        raise ConfigError(f"{name}={list(items)!r}: every one is a non-empty string")
    return cast(tuple[str, ...], items)


def token_ids(value: Any, name: str) -> tuple[int, ...]:
    """One token id for itself. Raises: ConfigError, TypeError."""
    items = tuple(value) if isinstance(value, Iterable) else (value,)
    return tuple(whole(item, name, 0, "token ids, at least 0") for item in items)


def require(holds: bool, name: str, value: object, rule: str) -> None:
    """Raises: ConfigError if the rule does not hold."""
    if not holds:
        raise ConfigError(f"{name}={value!r}: must be {rule}")
