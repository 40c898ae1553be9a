"""Several threads for work on many rows, each of which is on its own."""

from __future__ import annotations

import concurrent.futures
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


class Threads:
    """num: how many work, the caller's included. They begin when they are first needed, and end with this object."""

    def __init__(self, num: int) -> None:
        self.num = num
        self._pool = ThreadPoolExecutor(num - 1, thread_name_prefix="genai-rows") if num > 1 else None

    def map(self, function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
        """The function's result for each item, the first on this thread; all have ended when this returns or raises.

        Raises: what the function raised for the first item for which it did.
        """
        others = [self._begun(function, item) for item in items[1:]]
        try:
            return [*map(function, items[:1]), *(each.result() for each in others)]
        finally:
            concurrent.futures.wait(others)

    def _begun(self, function: Callable[[Item], Result], item: Item) -> Future[Result]:
        try:
            if self._pool is not None:
                return self._pool.submit(function, item)
        except RuntimeError:  # the interpreter is ending, or has no more threads
            pass
        return _done(function, item)


def _done(function: Callable[[Item], Result], item: Item) -> Future[Result]:
    future: Future[Result] = Future()
    try:
        future.set_result(function(item))
    except Exception as error:
        future.set_exception(error)
    return future


def parts_of(items: Sequence[Item], num: int) -> list[Sequence[Item]]:
    """Items in order, in `num` parts of nearly the same size; fewer parts if there are fewer items."""
    num = min(num, len(items))
    ends = [len(items) * part // num for part in range(num + 1)]
    return [items[start:end] for start, end in itertools.pairwise(ends)]
