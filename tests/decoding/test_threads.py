"""Work spread over threads: results in order, errors that wait for the others, and parts of one size."""

from __future__ import annotations

import threading
import time

import pytest

from genai.decoding.threads import Threads, parts_of


@pytest.mark.parametrize("num", [1, 2, 5])
def test_results_are_in_order(num: int) -> None:
    threads = Threads(num)
    assert threads.map(lambda item: item * 2, [*range(7)]) == [0, 2, 4, 6, 8, 10, 12]
    assert threads.map(str, list[int]()) == []


def test_items_are_worked_on_at_once() -> None:
    meeting = threading.Barrier(3, timeout=10)
    Threads(3).map(lambda _: meeting.wait(), [0, 1, 2])


def test_an_error_is_raised_when_all_have_ended() -> None:
    ended = []

    def work(item: int) -> None:
        if item < 2:
            raise ValueError(item)
        time.sleep(0.05)
        ended.append(item)

    with pytest.raises(ValueError, match="0"):
        Threads(3).map(work, [0, 1, 2])
    assert ended == [2]


def test_without_further_threads_the_caller_does_it_all() -> None:
    """As at the end of the interpreter, when pools take nothing any more."""
    threads = Threads(2)
    assert threads._pool is not None
    threads._pool.shutdown()
    found = threads.map(lambda item: (item, threading.current_thread()), [1, 2])
    assert found == [(1, threading.current_thread()), (2, threading.current_thread())]


@pytest.mark.parametrize(("size", "num", "sizes"), [(7, 3, [2, 2, 3]), (2, 5, [1, 1]), (4, 1, [4])])
def test_parts_are_of_nearly_the_same_size(size: int, num: int, sizes: list[int]) -> None:
    parts = parts_of([*range(size)], num)
    assert [len(part) for part in parts] == sizes
    assert [item for part in parts for item in part] == [*range(size)]
