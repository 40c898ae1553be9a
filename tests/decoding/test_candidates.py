"""Candidates against sorting the whole vocabulary, and draws against the running sum of all weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genai.decoding.candidates import drawn, drawn_from_all, narrowed, ranked
from genai.decoding.processors import FloatArray


def logits_with_ties(seed: int, size: int, ruled_out: float) -> FloatArray:
    rng = np.random.default_rng(seed)
    logits = rng.integers(-8, 8, size).astype(np.float32) / 2
    logits[rng.random(size) < ruled_out] = -np.inf
    return logits


@settings(max_examples=200, deadline=None)
@given(
    st.integers(0, 2**32),
    st.integers(1, 1000),
    st.integers(1, 1200),
    st.sampled_from([0.0, 0.5, 0.99, 1.0]),
)
def test_candidates_are_all_tokens_from_the_floor_up(seed: int, size: int, num: int, ruled_out: float) -> None:
    logits = logits_with_ties(seed, size, ruled_out)
    found = narrowed(logits, num)
    possible = np.flatnonzero(logits > -np.inf)
    expected = np.flatnonzero(logits >= found.floor)
    assert set(found.tokens) & set(possible) == set(expected) & set(possible)
    np.testing.assert_array_equal(found.logits, logits[found.tokens])
    assert len(found.tokens) >= min(num, possible.size)
    assert found.best == logits.max()


@pytest.mark.parametrize("size", [49_152, 50_257, 128_256, 151_669])
@pytest.mark.parametrize("num", [1, 40, 256, 3000])
def test_few_candidates_are_found_among_many_tokens(size: int, num: int) -> None:
    logits = np.random.default_rng(num).standard_normal(size).astype(np.float32)
    logits[-2] = 9
    found = narrowed(logits, num)
    assert num <= found.tokens.size < 2 * num + 60
    assert sorted(found.tokens) == np.flatnonzero(logits >= found.floor).tolist()
    np.testing.assert_array_equal(found.logits, logits[found.tokens])
    assert found.best == 9


@pytest.mark.parametrize("place", [0, 63, 700, 999])
@pytest.mark.parametrize("num", [1, 10, 2000])
def test_a_nan_anywhere_shows(place: int, num: int) -> None:
    logits = np.random.default_rng(0).standard_normal(1000).astype(np.float32)
    logits[place] = np.nan
    assert np.isnan(narrowed(logits, num).best)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2**32), st.integers(1, 90)), min_size=1, max_size=4), st.integers(1, 100))
def test_ranked_rows_are_sorted_and_the_first_of_ties_comes_first(rows: list[tuple[int, int]], num: int) -> None:
    given_rows = [logits_with_ties(seed, size, 0.1) for seed, size in rows]
    looked = [narrowed(logits, num) for logits in given_rows]
    tokens, logits = ranked(looked)
    for row, whole in enumerate(given_rows):
        size = looked[row].tokens.size
        order = np.argsort(-whole, kind="stable")
        num_possible = min(size, int((whole > -np.inf).sum()))
        np.testing.assert_array_equal(tokens[row, :num_possible], order[:num_possible])
        np.testing.assert_array_equal(logits[row, :num_possible], whole[order[:num_possible]])
        assert (logits[row, num_possible:] == -np.inf).all()


def test_negative_zero_ties_with_zero() -> None:
    tokens, _ = ranked([narrowed(np.array([1, 0.0, -0.0, 0.0, -0.0, -1], np.float32), 6)])
    assert tokens.tolist() == [[0, 1, 2, 3, 4, 5]]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 3000), st.floats(0, 1, exclude_max=True))
def test_a_draw_is_where_the_running_sum_passes(seed: int, size: int, share: float) -> None:
    """Weights are whole numbers, so that sums are exact in any order."""
    rng = np.random.default_rng(seed)
    weights = rng.integers(0, 3, size).astype(np.float64)
    weights[rng.integers(size)] = 1
    reached = weights.cumsum()
    expected = int((reached <= share * reached[-1]).sum())
    assert drawn_from_all(weights.astype(np.float32), share) == expected
    rows = np.stack([np.concatenate((weights, np.zeros(100))), np.ones(size + 100)])
    assert drawn(rows, np.array([share, 0.0])).tolist() == [expected, 0]


@pytest.mark.parametrize("share", [0.0, 0.005, 0.5, 1 - 2**-53])
def test_a_draw_never_takes_a_weight_of_zero(share: float) -> None:
    weights = np.zeros(5000)
    weights[[100, 3000]] = 1e-3, 0.1
    (place,) = drawn(weights[None], np.array([share])).tolist()
    assert place == drawn_from_all(weights.astype(np.float32), share)
    assert place == (100 if share < 0.009 else 3000)
