"""How long work reports how far it is: one callable type, and the one that says nothing."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (label, done, total), in bytes or steps; a total of 0 means that it is not known yet."""


def silent(label: str, done: int, total: int) -> None:
    """Report nothing."""
