"""Choosing for many rows at once, by bounds and on several threads, against one row after another without any."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genai.decoding import filters, sampler
from genai.decoding.filters import look
from genai.decoding.sampler import Sampler, choose
from genai.decoding.threads import Threads
from genai.errors import ConfigError, GraphRunError
from genai.options.generation_config import GenerationConfig
from tests.decoding.one_by_one import chosen_one_by_one

THREADS = Threads(3)
OPTIONS = st.fixed_dictionaries(
    {"rng_seed": st.integers(0, 9)},
    optional={
        "temperature": st.sampled_from([0.01, 0.7, 1.0, 2.0]),
        "top_k": st.sampled_from([1, 5, 60, 5000]),
        "top_p": st.sampled_from([0.1, 0.9, 0.999]),
        "typical_p": st.sampled_from([0.3, 0.95]),
        "min_p": st.sampled_from([1e-6, 0.01, 0.5, 1.0]),
        "xtc_probability": st.just(0.5),
        "repetition_penalty": st.just(1.3),
        "do_sample": st.just(False),
        "allowed_token_ids": st.sampled_from([[3], [*range(0, 1500, 7)]]),
        "logit_bias": st.just({7: 2.0, 8: -math.inf}),
    },
)


def rows_of(seed: int, num: int, size: int) -> list[np.ndarray]:
    """Logits as flat and as peaked as they come, with ties, negative zeros and tokens that are ruled out."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((num, size)) * rng.choice([0, 0.5, 2, 6], (num, 1))
    rows = np.where(rng.random((num, 1)) < 0.3, rows.round(), rows) + rng.choice([-30, 0, 40], (num, 1))
    rows[rng.random((num, size)) < 0.05] = -np.inf
    rows[:, 3] = 1
    rows[:, 7] = rng.choice([-0.0, 5.0], num)
    return list(rows.astype(np.float32))


def samplers_of(options: list[dict[str, object]], size: int) -> list[Sampler]:
    return [Sampler(GenerationConfig().updated(**each).sampling_config, [1, 2, 9], size) for each in options]


@pytest.fixture(autouse=True)
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that small vocabularies take every way: several looks, many candidates, parts on threads."""
    monkeypatch.setattr(filters, "_LEAST_SHARES", (2**-5, 2**-7))
    monkeypatch.setattr(filters, "_ONE_OF", 300)
    monkeypatch.setattr(filters, "_FEW", 50)
    monkeypatch.setattr(sampler, "_ENTRIES_OF_A_THREAD", 2000)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32), st.lists(OPTIONS, min_size=1, max_size=6), st.sampled_from([40, 1500, 3001]))
def test_texts_are_the_same_to_the_token(seed: int, options: list[dict[str, object]], size: int) -> None:
    options = [{k: v for k, v in each.items() if size > 1500 or k != "allowed_token_ids"} for each in options]
    ours, theirs = samplers_of(options, size), samplers_of(options, size)
    for step in range(4):
        rows = rows_of(seed + step, len(options), size)
        before = [row.copy() for row in rows]
        expected = chosen_one_by_one(theirs, rows)
        assert choose(ours, rows, THREADS) == expected
        np.testing.assert_array_equal(rows, before)
        for one, other, token in zip(ours, theirs, expected, strict=True):
            one.accept(token)
            other.accept(token)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.7},
        {"top_p": 0.95},
        {"temperature": 2.0, "top_p": 0.95},
        {"top_p": 0.9, "min_p": 0.001},
        {"min_p": 0.02},
        {"top_k": 3000, "top_p": 0.99},
        {"typical_p": 0.9},
    ],
    ids=str,
)
def test_texts_of_a_large_vocabulary_are_the_same(options: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """At the limits that are in use, with logits spread as models' are."""
    monkeypatch.undo()
    size, num = 262_144, 6
    given_options = [{"rng_seed": seed, **options} for seed in range(num)]
    rows = [(np.random.default_rng(seed).standard_normal(size) * 4.7).astype(np.float32) for seed in range(num)]
    ours, theirs = samplers_of(given_options, size), samplers_of(given_options, size)
    for _ in range(3):
        assert choose(ours, rows, THREADS) == chosen_one_by_one(theirs, rows)


def test_rows_that_are_one_row_are_chosen_for_in_turn() -> None:
    """Forks of a prompt share its logits, and some change them for a moment."""
    (row,) = rows_of(3, 1, 3001)
    options = [{"rng_seed": seed, "repetition_penalty": 1.0 + seed} for seed in range(6)]
    assert choose(samplers_of(options, 3001), [row] * 6, THREADS) == chosen_one_by_one(
        samplers_of(options, 3001), [row] * 6
    )


@pytest.mark.parametrize("bad", range(4))
def test_no_random_stream_has_moved_when_a_row_is_refused(bad: int) -> None:
    rows = rows_of(5, 4, 3001)
    rows[bad][11] = np.nan
    samplers = samplers_of([{"rng_seed": 1, "top_p": 0.9}, {"rng_seed": 2}] * 2, 3001)
    before = [each.state() for each in samplers]
    with pytest.raises(GraphRunError, match="not finite"):
        choose(samplers, rows, THREADS)
    assert [each.state() for each in samplers] == before
    rows[bad] = np.full(3001, -np.inf, np.float32)
    with pytest.raises((ConfigError, GraphRunError)):
        choose(samplers, rows, THREADS)
    assert [each.state() for each in samplers] == before


def test_many_rows_of_many_candidates_are_not_all_ranked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flat row with top-p sorts values, and never tokens: eight passes over a vocabulary fewer."""
    config = GenerationConfig().updated(rng_seed=1, top_p=0.95).sampling_config
    flat = np.random.default_rng(0).standard_normal(3001).astype(np.float32)
    assert look(config, flat).candidates.tokens.size > 2000
    monkeypatch.setattr(filters, "ranked", lambda rows: pytest.fail("tokens are ranked"))
    choose([Sampler(config, [], 3001)], [flat])
