"""What the value of an option may be: a rule gives a value back, written one way, or refuses it with its name."""

from __future__ import annotations

import json
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from numbers import Real
from typing import SupportsIndex, TypeAlias, cast

from genai.errors import ConfigError

SIZE_MAX = 2**64 - 1
"""How the preview interface writes "no limit"."""
UNLIMITED = (SIZE_MAX, -1)
"""What means "no limit": other servers write -1."""

Rule: TypeAlias = Callable[[object, str], object]
"""From a value that is not None, and the option's name, to the value that configurations hold. Raises: ConfigError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """A finite number. least, above, most: its bounds; off: what switches the option off, and 0 does too."""

    least: float | None = None
    above: float | None = None
    most: float | None = None
    off: int | None = None

    def __call__(self, value: object, name: str) -> float:
        """The number. Raises: ConfigError."""
        require(isinstance(value, Real) and not isinstance(value, bool), name, value, "a number")
        number = cast(float, value)
        if number == 0 and self.off is not None:
            number = self.off
        require(math.isfinite(number) and self._holds(number), name, value, self._text())
        return number

    def _holds(self, number: float) -> bool:
        is_low = (self.least is not None and number < self.least) or (self.above is not None and number <= self.above)
        return not is_low and (self.most is None or number <= self.most)

    def _text(self) -> str:
        off = "" if self.off is None else f" ({self.off}: off)"
        if self.least is not None:
            return (f"at least {self.least}" if self.most is None else f"between {self.least} and {self.most}") + off
        if self.above is not None:
            return f"above {self.above}" + ("" if self.most is None else f" and at most {self.most}") + off
        return f"a finite number{off}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Whole:
    """A whole number, NumPy's too. off: what switches the option off, as SIZE_MAX and vLLM's -1 do.

    none: numbers that are as good as None.
    """

    least: int = 0
    most: int | None = None
    off: int | None = None
    none: tuple[int, ...] = ()

    def __call__(self, value: object, name: str) -> int | None:
        """The number. Raises: ConfigError."""
        if value in (UNLIMITED if self.off is not None else self.none):
            return self.off
        number = whole(value, name)
        require(number >= self.least and (self.most is None or number <= self.most), name, value, self._text())
        return number

    def _text(self) -> str:
        if self.most is not None:
            return f"between {self.least} and {'2**64 - 1' if self.most == SIZE_MAX else self.most}"
        end = ", or None" if self.none else "" if self.off is None else f" ({self.off}: off)"
        return f"at least {self.least}{end}"


@dataclass(frozen=True, slots=True)
class OneOf:
    """One of these words; says: how errors list them."""

    words: tuple[str, ...]
    says: str

    def __call__(self, value: object, name: str) -> str:
        """The word. Raises: ConfigError."""
        require(value in self.words, name, value, self.says)
        return cast(str, value)


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenIds:
    """Token ids; one for itself. least: how many there must be."""

    least: int = 0

    def __call__(self, value: object, name: str) -> tuple[int, ...]:
        """The ids. Raises: ConfigError."""
        ids = tuple(whole(item, name) for item in (value if isinstance(value, Iterable) else (value,)))
        require(min(ids, default=0) >= 0, name, value, "token ids, at least 0")
        require(len(ids) >= self.least, name, list(ids), "None for all, or at least one token")
        return ids


def switch(value: object, name: str) -> bool:
    """True or False. Raises: ConfigError."""
    require(value in (True, False), name, value, "True or False")
    return bool(value)


def text(value: object, name: str) -> str:
    """A string. Raises: ConfigError."""
    if not isinstance(value, str):
        raise ConfigError(f"{name} is a string, not {value!r}")
    return value


def json_text(value: object, name: str) -> str:
    """JSON as text, or an object that is written as such. Raises: ConfigError."""
    if isinstance(value, Mapping | bool):
        return json.dumps(value)
    if not isinstance(value, str):
        raise ConfigError(f"{name} is a string or an object, not {value!r}")
    return value


def strings(value: object, name: str) -> tuple[str, ...]:
    """Strings that are not empty; one for itself. Raises: ConfigError."""
    items = (value,) if isinstance(value, str) else value
    if isinstance(items, Mapping) or not isinstance(items, Iterable):
        raise ConfigError(f"{name}={value!r}: must be a string or a list of strings")
    found = tuple(items)
    if any(not isinstance(item, str) or not item for item in found):
        raise ConfigError(f"{name}={list(found)!r}: every one is a non-empty string")
    return found


def words(value: object, name: str) -> tuple[str | tuple[int, ...], ...]:
    """Strings or lists of token ids, none empty; one string for itself. Raises: ConfigError."""
    items = (value,) if isinstance(value, str) or not isinstance(value, Iterable) else value
    found = tuple(word if isinstance(word, str) else TokenIds()(word, name) for word in items)
    if not all(found):
        raise ConfigError(f"{name}: every one is a non-empty string or list of token ids")
    return found


def biases(value: object, name: str) -> Mapping[int, float]:
    """Numbers below infinity by token id. Raises: ConfigError."""
    try:
        found = {int(token): float(bias) for token, bias in cast(Mapping[str, float], value).items()}
    except (AttributeError, TypeError, ValueError):
        raise ConfigError(f"{name} maps token ids to what is added to their logits") from None
    for token, bias in found.items():
        require(bias < math.inf, f"{name}[{token}]", bias, "a number below infinity")
    return found


def whole(value: object, name: str) -> int:
    """A whole number, NumPy's too. Raises: ConfigError."""
    require(isinstance(value, SupportsIndex) and not isinstance(value, bool), name, value, "a whole number")
    return operator.index(cast(SupportsIndex, value))


def require(holds: bool, name: str, value: object, rule: str) -> None:
    """Raises: ConfigError if the rule does not hold."""
    if not holds:
        raise ConfigError(f"{name}={value!r}: must be {rule}")
