"""Cuts are those of trying every place; hostile vocabularies take no longer than their size says."""

from __future__ import annotations

import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genai.errors import TokenizerError
from genai.tokenizer.cuts import cuts


def tried(pieces: list[str]) -> list[tuple[str, str]]:
    known = set(pieces)
    ways = [(piece[:cut], piece[cut:]) for piece in pieces for cut in range(1, len(piece))]
    return [(left, right) for left, right in ways if left in known and right in known]


@given(st.lists(st.text("ab▁\0\U0001f600", min_size=1, max_size=9), unique=True, max_size=60))
def test_they_are_those_of_trying_every_place(pieces: list[str]) -> None:
    assert cuts(pieces) == tried(pieces)


def test_long_pieces_take_no_longer_than_short_ones() -> None:
    """Two million characters in pieces of thousands: ten seconds and more, where every place is tried."""
    draw = random.Random(0)
    stem = "".join(draw.choices("ab", k=4096))
    lefts = [stem[:size] for size in range(1, 900)]
    pieces = list(dict.fromkeys([*lefts, *(stem[:900] + "".join(draw.choices("ab", k=3100)) for _ in range(400))]))
    assert sum(map(len, pieces)) > 1_900_000
    start = time.process_time()
    cuts(pieces)
    assert time.process_time() - start < 3


def test_absurdly_many_are_refused() -> None:
    start = time.process_time()
    with pytest.raises(TokenizerError, match="no real vocabulary"):
        cuts(["a" * size for size in range(1, 2001)])
    assert time.process_time() - start < 3
