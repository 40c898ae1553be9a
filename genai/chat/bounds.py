"""How much a chat template may do: steps, time, and the size of everything that it makes.

What an operator, a filter or a method would make is reckoned before it is made: a width, a count or a separator in a
template is a number that anyone may have written.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TypeVar

from jinja2.exceptions import SecurityError

T = TypeVar("T")

MAX_STEPS = 100_000
"""Most loop turns and macro calls in one rendering."""
MAX_SECONDS = 10.0
"""Most time that one rendering may take."""
MAX_SIZE = 16_000_000
"""Longest text or list a template may make, in characters or items."""
MAX_TOTAL = 64 * MAX_SIZE
"""Most that one rendering may make, all texts and lists together."""
MAX_INT_BITS = 4096

_SEQUENCES = (str, bytes, list, tuple)
_TAKE_LISTS = frozenset(
    {"attr", "batch", "count", "d", "default", "dictsort", "first", "groupby", "items", "join", "last", "length"}
    | {"list", "map", "max", "min", "random", "reject", "rejectattr", "reverse", "select", "selectattr", "slice"}
    | {"sort", "sum", "tojson", "unique"}
)
"""Filters that do not turn a list into text, or look at what they make themselves."""
_WIDTHS = re.compile(r"(?:^|\))[#0 +-]*(\*|\d+)?(?:\.(\*|\d+))?")  # behind a %, and perhaps a name in parentheses


@dataclass(slots=True)
class _Budget:
    steps: int = 0
    made: int = 0
    deadline: float = field(default_factory=lambda: time.monotonic() + MAX_SECONDS)


_budget: ContextVar[_Budget] = ContextVar("chat_template_budget")


@contextmanager
def new_budget() -> Iterator[None]:
    """What happens inside counts as one rendering."""
    token = _budget.set(_Budget())
    try:
        yield
    finally:
        _budget.reset(token)


def count_step() -> None:
    """Count one loop turn or macro call."""
    budget = _budget.get()
    budget.steps += 1
    if budget.steps > MAX_STEPS:
        raise SecurityError(f"it runs more than {MAX_STEPS} loop turns")
    _check_time(budget)


def _check_time(budget: _Budget | None) -> None:
    if budget is not None and time.monotonic() > budget.deadline:
        raise SecurityError(f"it runs for more than {MAX_SECONDS:.0f} seconds")


def check_size(size: int) -> None:
    """Refuse a text or list of so many elements, and count it."""
    if size > MAX_SIZE:
        raise SecurityError(f"it makes a text or list of {size} elements (limit {MAX_SIZE})")
    budget = _budget.get(None)  # none: constants are put together when a template is compiled
    if budget is not None:
        budget.made += size
        if budget.made > MAX_TOTAL:
            raise SecurityError(f"it makes texts and lists of more than {MAX_TOTAL} elements")


def counted(value: T) -> T:
    """What has been made, after a look at its size."""
    if isinstance(value, _SEQUENCES):
        check_size(len(value))
    return value


def limited(chunks: Iterable[str], between: int = 0) -> Iterator[str]:
    """The pieces of one text, with so much between them, as long as it stays within the limit."""
    size = 0
    for chunk in chunks:
        size += len(chunk) + between
        if size > MAX_SIZE:
            check_size(size)
        _check_time(_budget.get(None))
        yield chunk


def check_shown(value: object) -> None:
    """Look at how long a value is as text: a list may hold the same list many times, and that one another."""
    if not isinstance(value, list | tuple | dict):
        return
    waiting: list[object] = [value]
    size = 0
    while waiting:
        _check_time(_budget.get(None))
        item = waiting.pop()
        size += _length(item) + 1
        if isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple):
            waiting += item
        if size + len(waiting) > MAX_SIZE:
            check_size(size + len(waiting))


def check_operator(operator: str, left: object, right: object) -> None:
    """Look at what `left operator right` makes."""
    if operator == "+" and isinstance(left, _SEQUENCES) and isinstance(right, _SEQUENCES):
        check_size(len(left) + len(right))
    elif operator == "*" and isinstance(left, int) and isinstance(right, int):
        check_bits(left.bit_length() + right.bit_length())
    elif operator == "*":
        for sequence, times in ((left, right), (right, left)):
            if isinstance(sequence, _SEQUENCES) and isinstance(times, int):
                check_size(len(sequence) * times)
    elif operator == "**" and isinstance(left, int) and isinstance(right, int):
        check_bits(left.bit_length() * right)
    elif operator == "%" and isinstance(left, str | bytes):
        _check_percent(left if isinstance(left, str) else left.decode("latin-1"), right)


def check_field(value: object, spec: str) -> None:
    """Look at what `format` makes of one field."""
    check_shown(value)
    check_size(max((int(width[:20]) for width in re.findall("[0-9]+", spec)), default=0))


def check_bits(bits: int) -> None:
    """Refuse a number of so many bits."""
    if bits > MAX_INT_BITS:
        raise SecurityError(f"it makes a number of {bits} bits (limit {MAX_INT_BITS})")


def _check_percent(pattern: str, values: object) -> None:
    places = pattern.split("%")[1:]
    widths = [width for place in places for match in _WIDTHS.finditer(place) for width in match.groups() if width]
    shown = _items(values if isinstance(values, tuple | dict) else [values])
    check_shown(shown)
    longest = max(map(_length, shown), default=0)
    stars = sum(map(_number, shown)) if "*" in widths else 0
    numbers = sum(int(width[:20]) for width in widths if width != "*")
    check_size(len(pattern) + numbers + stars + len(places) * longest)


def check_call(name: str, value: object, arguments: Sequence[object]) -> None:
    """Look at what a filter, or a method of a text or a number, makes of a value."""
    if name not in _TAKE_LISTS:
        check_shown(value)
    number = max(map(_number, arguments), default=0)
    longest = max((_length(text) for item in arguments for text in _items(item)), default=0)
    if name == "round":
        check_bits(4 * number)
    if not isinstance(value, str | bytes) or name not in _PLACES:
        check_size(max(number, longest))
        return
    takes_number = name in ("indent", "expandtabs")
    check_size(len(value) + _PLACES[name](value, arguments) * max(number if takes_number else 0, longest))


def _occurrences(value: str | bytes, arguments: Sequence[object]) -> int:
    """How often the most frequent of the texts stands in another."""
    if isinstance(value, str):
        return max((value.count(text) for text in arguments if isinstance(text, str)), default=0)
    return max((value.count(text) for text in arguments if isinstance(text, bytes)), default=0)


_PLACES: Mapping[str, Callable[[str | bytes, Sequence[object]], int]] = {
    "replace": _occurrences,
    "indent": lambda value, _: len(value.splitlines()),
    "expandtabs": lambda value, _: len(value.expandtabs(1)),
    "translate": lambda value, _: len(value),
    "urlize": lambda value, _: len(value.split()),
    "wordwrap": lambda value, _: len(value),
}
"""How often an argument of what makes a text longer may come to stand in it."""


def _items(value: object) -> list[object]:
    if isinstance(value, Mapping):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else [value]


def _length(value: object) -> int:
    return len(value) if isinstance(value, _SEQUENCES) else 0


def _number(value: object) -> int:
    return abs(value) if isinstance(value, int) else 0
