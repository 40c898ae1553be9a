"""What filters keep of a few candidates, against the definitions over whole vocabularies; rows do not see others."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genai.decoding import filters
from genai.decoding.candidates import Candidates
from genai.decoding.filters import filtered, has_filters, look
from genai.decoding.processors import FloatArray
from genai.options.generation_config import SamplingConfig
from tests.grammar.definitions import filtered_weights

CONFIGS = st.builds(
    SamplingConfig,
    do_sample=st.just(True),
    temperature=st.sampled_from([0.5, 1.0, 1.7]),
    top_k=st.sampled_from([0, 0, 1, 3, 20, 10_000]),
    typical_p=st.sampled_from([1.0, 1.0, 0.2, 0.5, 0.9, 0.999]),
    top_p=st.sampled_from([1.0, 0.05, 0.5, 0.9, 0.999]),
    min_p=st.sampled_from([0.0, 0.0, 0.01, 0.3, 1.0]),
).filter(has_filters)
SHAPES: list[Callable[[np.random.Generator, int], np.ndarray]] = [
    lambda rng, size: rng.standard_normal(size) * 3,
    lambda rng, size: rng.integers(-8, 4, size) / 2,  # many ties
    lambda rng, size: np.zeros(size),
    lambda rng, size: np.where(rng.random(size) < 0.02, 0, -7.5 - rng.random(size)),  # a few, and a long tail
]


@st.composite
def rows_of_logits(draw: st.DrawFn) -> FloatArray:
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    size = draw(st.integers(1, 300))
    logits = SHAPES[draw(st.integers(0, len(SHAPES) - 1))](rng, size).astype(np.float32)
    logits[rng.random(size) < draw(st.sampled_from([0.0, 0.9]))] = -np.inf
    logits[rng.integers(size)] = 1.5
    return logits


def all_filtered(rows: list[tuple[FloatArray, SamplingConfig]]) -> list[np.ndarray]:
    """Each row's weights [V] after the filters."""
    result = [np.zeros(logits.size) for logits, _ in rows]
    for indices, kept in filtered({index: look(config, logits) for index, (logits, config) in enumerate(rows)}):
        for index, tokens, weights in zip(indices, kept.tokens, kept.weights, strict=True):
            result[index][tokens[weights > 0]] = weights[weights > 0]
    return result


@pytest.fixture(autouse=True)
def few_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small vocabularies are looked at again, and rows are filtered apart."""
    monkeypatch.setattr(filters, "_LEAST_SHARES", (0.2, 0.02))
    monkeypatch.setattr(filters, "_ONE_OF", 40)
    monkeypatch.setattr(filters, "_FEW", 40)


@settings(max_examples=250, deadline=None)
@given(st.lists(st.tuples(rows_of_logits(), CONFIGS), min_size=1, max_size=3))
def test_what_is_kept_is_what_the_definitions_keep(rows: list[tuple[FloatArray, SamplingConfig]]) -> None:
    for (logits, config), weights in zip(rows, all_filtered(rows), strict=True):
        np.testing.assert_array_equal(weights, filtered_weights(logits, config))
        np.testing.assert_array_equal(weights, all_filtered([(logits, config)])[0])


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({"top_k": 40}, 64),
        ({"top_p": 0.5}, 32),
        ({"min_p": 0.5}, 32),
        ({"typical_p": 0.2}, 1200),
    ],
)
def test_no_more_is_looked_at_than_it_takes(options: dict[str, float], most: int) -> None:
    logits = (np.random.default_rng(0).standard_normal(20_000) * 2).astype(np.float32)
    logits[:3] = 18
    assert look(SamplingConfig(do_sample=True, **options), logits).candidates.tokens.size <= most


def test_a_flat_row_is_looked_at_three_times_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample of its weights says how far down its filters reach, so that not all of it has to be ranked."""
    monkeypatch.undo()
    floors: list[float] = []

    def reaching(logits: FloatArray, floor: float, best: float) -> Candidates:
        floors.append(floor)
        return found(logits, floor, best)

    found = filters.reaching
    monkeypatch.setattr(filters, "reaching", reaching)
    logits = (np.random.default_rng(0).standard_normal(262_144) * 2.35).astype(np.float32)
    size = look(SamplingConfig(do_sample=True, top_p=0.95), logits).candidates.tokens.size
    assert len(floors) <= 3
    assert size < logits.size / 3


def test_logits_that_are_not_finite_are_left_to_the_caller() -> None:
    config = SamplingConfig(do_sample=True, top_p=0.5, typical_p=0.5)
    for value in (np.nan, np.inf, -np.inf):
        assert not np.isfinite(look(config, np.full(9, value, np.float32)).candidates.best)
