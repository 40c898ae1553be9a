"""The measurement is of what it says: what is taken is what was put, and an idle row is taken up."""

from __future__ import annotations

import pytest

from benchmarks.prefix_cache import SHAPES, measure


@pytest.mark.parametrize("name", SHAPES)
def test_measures_what_it_says(name: str) -> None:
    assert set(measure(SHAPES[name], 160)) == {"copy", "put", "put again", "take", "take up idle"}
