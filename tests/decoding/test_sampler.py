"""Processors against transformers' own, and samplers against the distribution they must draw from."""

from __future__ import annotations

import numpy as np
import pytest

from genai.decoding import processors
from genai.decoding.sampler import Sampler
from genai.generation_config import SamplingConfig

torch = pytest.importorskip("torch")
RNG = np.random.default_rng(0)


def random_logits(size: int = 500) -> np.ndarray:
    return (RNG.standard_normal(size) * 3).astype(np.float32)


def theirs(processor: object, logits: np.ndarray, seen: list[int] | None = None) -> np.ndarray:
    ids = torch.tensor([seen or [0]])
    return processor(ids, torch.from_numpy(logits.copy())[None])[0].numpy()  # type: ignore[operator]


@pytest.mark.parametrize("k", [1, 2, 50, 499, 500, 1000])
def test_top_k(k: int) -> None:
    from transformers import TopKLogitsWarper

    logits = random_logits()
    np.testing.assert_array_equal(processors.keep_top_k(logits, k), theirs(TopKLogitsWarper(min(k, 500)), logits))


@pytest.mark.parametrize("p", [0.01, 0.3, 0.9, 0.999])
def test_top_p(p: float) -> None:
    from transformers import TopPLogitsWarper

    logits = random_logits()
    np.testing.assert_array_equal(processors.keep_top_p(logits, p), theirs(TopPLogitsWarper(p), logits))


@pytest.mark.parametrize("p", [0.001, 0.1, 0.7, 1.0])
def test_min_p(p: float) -> None:
    from transformers import MinPLogitsWarper

    logits = random_logits()
    np.testing.assert_array_equal(processors.keep_min_p(logits, p), theirs(MinPLogitsWarper(p), logits))


@pytest.mark.parametrize("penalty", [0.5, 1.3, 4.0])
def test_repetition_penalty(penalty: float) -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    logits, seen = random_logits(), [1, 5, 5, 9, 499]
    ours = processors.penalize_repetition(logits, np.array(sorted(set(seen))), penalty)
    np.testing.assert_allclose(ours, theirs(RepetitionPenaltyLogitsProcessor(penalty), logits, seen), rtol=1e-6)


def test_processors_leave_their_input_alone() -> None:
    logits = random_logits()
    before = logits.copy()
    Sampler(
        SamplingConfig(do_sample=True, temperature=0.5, top_k=10, top_p=0.5, min_p=0.1, repetition_penalty=2.0),
        [1, 2],
        logits.size,
    ).choose(logits)
    np.testing.assert_array_equal(logits, before)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0, "top_k": 5},
        {"top_p": 0.8},
        {"min_p": 0.2},
        {"temperature": 1.5, "top_k": 8, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.5},
    ],
)
def test_samples_follow_transformers_distribution(options: dict[str, float]) -> None:
    """20,000 draws over 12 tokens: every frequency within five standard deviations of transformers' probability."""
    logits = (np.random.default_rng(3).standard_normal(12) * 2).astype(np.float32)
    processor = _their_processors(options)
    expected = torch.softmax(processor(torch.tensor([[3, 4]]), torch.from_numpy(logits)[None])[0], -1).numpy()
    draws = 20_000
    config = SamplingConfig(do_sample=True, rng_seed=0, **options)
    sampler = Sampler(config, [3, 4], 12)
    counts = np.zeros(12)
    for _ in range(draws):
        token = sampler.choose(logits)
        if token not in {3, 4} and sampler._seen.size:
            sampler._seen[token] = False  # each draw from the same state
        counts[token] += 1
    deviation = np.sqrt(draws * expected * (1 - expected))
    assert (np.abs(counts - draws * expected) <= 5 * deviation + 1e-9).all()
    assert (counts[expected == 0] == 0).all()


def _their_processors(options: dict[str, float]):  # type: ignore[no-untyped-def]
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        RepetitionPenaltyLogitsProcessor,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    order = {
        "repetition_penalty": RepetitionPenaltyLogitsProcessor,
        "temperature": TemperatureLogitsWarper,
        "top_k": TopKLogitsWarper,
        "top_p": TopPLogitsWarper,
        "min_p": MinPLogitsWarper,
    }
    return LogitsProcessorList([kind(options[name]) for name, kind in order.items() if name in options])


def test_greedy_takes_the_most_probable_and_honours_the_penalty() -> None:
    logits = np.array([0.0, 2.0, 1.9], np.float32)
    assert Sampler(SamplingConfig(), [1], 3).choose(logits) == 1
    assert Sampler(SamplingConfig(repetition_penalty=2.0), [1], 3).choose(logits) == 2


def test_chosen_tokens_count_as_seen() -> None:
    sampler = Sampler(SamplingConfig(repetition_penalty=2.0), [], 3)
    logits = np.array([0.0, 2.0, 1.9], np.float32)
    assert [sampler.choose(logits) for _ in range(3)] == [1, 2, 1]


def test_extreme_logits_are_survived() -> None:
    logits = np.full(100, -np.inf, np.float32)
    logits[42] = 1e30
    sampler = Sampler(SamplingConfig(do_sample=True, temperature=0.01, top_p=0.9, min_p=0.1, top_k=5), [], 100)
    assert sampler.choose(logits) == 42


def test_log_probability() -> None:
    logits = random_logits()
    expected = torch.log_softmax(torch.from_numpy(logits), -1)
    assert processors.log_probability(logits, 7) == pytest.approx(float(expected[7]), abs=1e-5)
