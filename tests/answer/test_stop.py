"""Stop strings: any cutting of the text into chunks gives what the whole text gives."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genai.answer.stop import StopStrings

LETTERS = st.text(alphabet="ab c", max_size=40)
STOPS = st.lists(st.text(alphabet="ab c", min_size=1, max_size=6), max_size=4)


def run(stops: list[str], chunks: list[str]) -> tuple[str, bool]:
    """The text shown and whether it was stopped."""
    watcher = StopStrings(stops)
    shown = ""
    for chunk in chunks:
        text, is_stopped = watcher.push(chunk)
        shown += text
        if is_stopped:
            assert watcher.finish() == ""
            return shown, True
    return shown + watcher.finish(), False


def whole(stops: list[str], text: str) -> tuple[str, bool]:
    """By definition: the first end of a stop string; of those that end there, the longest."""
    for end in range(1, len(text) + 1):
        ending = [stop for stop in stops if text[:end].endswith(stop)]
        if ending:
            return text[: end - max(map(len, ending))], True
    return text, False


@given(stops=STOPS, text=LETTERS, cuts=st.lists(st.integers(0, 40), max_size=8))
def test_chunks_do_not_matter(stops: list[str], text: str, cuts: list[int]) -> None:
    edges = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    chunks = [text[start:end] for start, end in pairwise(edges)]
    assert run(stops, chunks) == whole(stops, text)


@given(stops=STOPS, text=LETTERS)
def test_no_more_is_held_back_than_may_begin_a_stop(stops: list[str], text: str) -> None:
    watcher = StopStrings(stops)
    shown = ""
    for character in text:
        new, is_stopped = watcher.push(character)
        shown += new
        if is_stopped:
            return
    held = text[len(shown) :]
    assert held == "" or any(stop.startswith(held) for stop in stops)


@pytest.mark.parametrize(
    ("stops", "chunks", "expected"),
    [
        (["END"], ["one EN", "D two"], ("one ", True)),
        (["END"], ["one EN", "d two"], ("one ENd two", False)),
        (["\n\n", "User:"], ["a\n", "\nUser:"], ("a", True)),
        (["aab"], ["aaa", "b"], ("a", True)),
        (["abcd", "bc"], ["abcd"], ("a", True)),
        (["bc", "abc"], ["xabc"], ("x", True)),
        ([], ["anything"], ("anything", False)),
        (["é"], ["cafe", "é!"], ("cafe", True)),
    ],
)
def test_examples(stops: list[str], chunks: list[str], expected: tuple[str, bool]) -> None:
    assert run(stops, chunks) == expected


def test_says_which_stop_it_was_and_stays_stopped() -> None:
    watcher = StopStrings(["x", "yy"])
    assert watcher.matched is None
    assert watcher.push("abyyc") == ("ab", True)
    assert watcher.matched == "yy"
    assert watcher.push("more") == ("", True)


def test_a_repetitive_text_costs_no_more_than_its_length() -> None:
    watcher = StopStrings(["a" * 5000 + "b"])
    shown = "".join(watcher.push("a" * 100)[0] for _ in range(500)) + watcher.finish()
    assert shown == "a" * 50_000
