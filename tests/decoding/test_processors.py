"""Processors against transformers' own, for rows of different settings at once, over whole vocabularies."""

from __future__ import annotations

import numpy as np
import pytest

from genai.decoding import processors
from genai.decoding.processors import FloatArray

torch = pytest.importorskip("torch")
RNG = np.random.default_rng(0)


def random_logits(num_rows: int, size: int = 500) -> FloatArray:
    return (RNG.standard_normal((num_rows, size)) * 3).astype(np.float32)


def theirs(processor: object, logits: FloatArray, seen: list[int] | None = None) -> FloatArray:
    """One row [V] through a processor of transformers."""
    ids = torch.tensor([seen or [0]])
    return processor(ids, torch.from_numpy(logits.copy())[None])[0].numpy()  # type: ignore[operator]


class Ranked:
    """Rows sorted as filters want them, and back."""

    def __init__(self, logits: FloatArray) -> None:
        self.order = np.argsort(-logits, axis=1, kind="stable")
        self.logits = np.take_along_axis(logits, self.order, axis=1)
        self.logs = processors.scaled(self.logits, self.logits[:, :1], np.ones((len(logits), 1), np.float32))
        self.weights = np.exp(self.logs).astype(np.float64)
        self.total = self.weights.sum(axis=1)

    def kept(self, weights: np.ndarray) -> np.ndarray:
        """[rows, V]: which tokens have any weight left."""
        result = np.zeros(weights.shape, np.bool_)
        np.put_along_axis(result, self.order, weights > 0, axis=1)
        return result


def test_top_k() -> None:
    from transformers import TopKLogitsWarper

    ks = [1, 2, 50, 499, 500, 1000]
    logits = random_logits(len(ks))
    rows = Ranked(logits)
    kept = rows.kept(processors.keep_top_k(rows.weights, rows.logits, np.array(ks)))
    for row, k in enumerate(ks):
        np.testing.assert_array_equal(kept[row], theirs(TopKLogitsWarper(min(k, 500)), logits[row]) > -np.inf)


def test_top_k_keeps_ties_with_the_last() -> None:
    rows = Ranked(np.array([[1, 3, 2, 2, 2, 0]], np.float32))
    assert rows.kept(processors.keep_top_k(rows.weights, rows.logits, np.array([2]))).tolist() == [[0, 1, 1, 1, 1, 0]]


def test_top_p() -> None:
    from transformers import TopPLogitsWarper

    ps = [0.01, 0.3, 0.9, 0.999, processors.OFF]
    logits = random_logits(len(ps))
    rows = Ranked(logits)
    kept = rows.kept(processors.keep_top_p(rows.weights, rows.total, np.array(ps)))
    for row, p in enumerate(ps):
        np.testing.assert_array_equal(kept[row], theirs(TopPLogitsWarper(min(p, 1)), logits[row]) > -np.inf)


def test_min_p() -> None:
    from transformers import MinPLogitsWarper

    ps = [0.0, 0.001, 0.1, 0.7, 1.0]
    logits = random_logits(len(ps))
    rows = Ranked(logits)
    kept = rows.kept(processors.keep_min_p(rows.weights, np.array(ps)))
    for row, p in enumerate(ps):
        np.testing.assert_array_equal(kept[row], theirs(MinPLogitsWarper(p), logits[row]) > -np.inf)


def test_typical_p() -> None:
    from transformers import TypicalLogitsWarper

    ps = [0.05, 0.3, 0.9, 0.99, processors.OFF]
    logits = random_logits(len(ps))
    rows = Ranked(logits)
    entropies = processors.entropy(rows.weights, rows.logs, rows.total)
    expected = torch.distributions.Categorical(logits=torch.from_numpy(logits)).entropy()
    np.testing.assert_allclose(entropies, expected, rtol=1e-5)
    kept = rows.kept(processors.keep_typical(rows.weights, rows.logs, rows.total, entropies, np.array(ps)))
    for row, p in enumerate(ps[:-1]):
        np.testing.assert_array_equal(kept[row], theirs(TypicalLogitsWarper(p), logits[row]) > -np.inf)
    assert kept[-1].all()
    assert not kept[0, rows.order[0, 0]], "the most probable token is not typical here, or this shows nothing"


def test_temperature() -> None:
    from transformers import TemperatureLogitsWarper

    logits, temperatures = random_logits(3), np.array([0.3, 1.0, 2.5], np.float32)
    logs = processors.scaled(logits, logits.max(axis=1, keepdims=True), temperatures[:, None])
    for row, temperature in enumerate(temperatures.tolist()):
        expected = theirs(TemperatureLogitsWarper(temperature), logits[row])
        np.testing.assert_allclose(logs[row], expected - expected.max(), atol=1e-5)


def test_filters_pass_over_ruled_out_tokens() -> None:
    """With -inf among the logits, whatever is off keeps all other tokens."""
    rows = Ranked(np.array([[1, -np.inf, 0, -np.inf], [-np.inf, 0, 0, 0]], np.float32))
    off = np.full(2, processors.OFF)
    weights = processors.keep_top_k(rows.weights, rows.logits, np.array([1000, 1000]))
    entropies = processors.entropy(weights, rows.logs, rows.total)
    np.testing.assert_allclose(entropies[1], np.log(3))
    weights = processors.keep_typical(weights, rows.logs, rows.total, entropies, off)
    weights = processors.keep_top_p(weights, rows.total, off)
    weights = processors.keep_min_p(weights, np.zeros(2))
    np.testing.assert_array_equal(weights, rows.weights)


@pytest.mark.parametrize(
    ("weights", "threshold", "places"),
    [
        ([5, 3, 1, 1], 0.1, [0, 1, 2]),  # all four reach it, the last stays
        ([5, 3, 1, 1], 0.3, [0]),
        ([5, 3, 1, 1], 0.5, []),  # only one reaches it
        ([5, 3, 1, 1], 0.6, []),
        ([0, 5, 0, 5], 0.1, [1]),
        ([1, 5, 3, 1], 0.1, [1, 2, 0]),  # in any order; of ties the last stays
        ([1, 1, 0], 0.0, [0]),
    ],
)
def test_top_choices(weights: list[float], threshold: float, places: list[int]) -> None:
    assert processors.top_choices(np.array(weights, np.float64), sum(weights), threshold).tolist() == places


def column(*values: float) -> FloatArray:
    return np.array(values, np.float32)


@pytest.mark.parametrize("penalty", [0.5, 1.3, 4.0])
def test_repetition_penalty(penalty: float) -> None:
    from transformers import RepetitionPenaltyLogitsProcessor

    (logits,), seen = random_logits(1), [1, 5, 9, 499]
    penalties, zeros = np.ones_like(logits), np.zeros_like(logits)
    penalties[seen] = penalty
    ours = processors.changed(logits, zeros, penalties, zeros)
    np.testing.assert_allclose(ours, theirs(RepetitionPenaltyLogitsProcessor(penalty), logits, seen), rtol=1e-6)


def test_changes_come_in_order() -> None:
    """First the bias, then the penalty of what is there by now, then the cost."""
    found = processors.changed(
        column(1, 1, -1, 0), column(0, -3, 3, 0), column(2, 2, 2, 2), column(0.25, 1, -1, np.inf)
    )
    np.testing.assert_array_equal(found, column(0.25, -5, 2, -np.inf))
    assert found.dtype == np.float32


def test_ruled_out_stays_ruled_out() -> None:
    found = processors.changed(column(*[-np.inf] * 4), column(0, 5, 0, 0), column(1, 1, 0.5, 2), column(-5, 0, 0, 0))
    np.testing.assert_array_equal(found, column(*[-np.inf] * 4))


def test_rule_out() -> None:
    (logits,) = random_logits(1)
    logits[3], mask = -np.inf, RNG.random(500) < 0.5
    np.testing.assert_array_equal(processors.rule_out(logits, mask), np.where(mask, logits, -np.inf))
    out = np.zeros_like(logits)
    assert processors.rule_out(logits, mask, out) is out
    np.testing.assert_array_equal(out, np.where(mask, logits, -np.inf))


@pytest.mark.parametrize("size", [1, 1023, 1024, 1025, 50_000])
def test_totals(size: int) -> None:
    weights = RNG.random(size).astype(np.float32)
    assert processors.total(weights) == pytest.approx(weights.sum(dtype=np.float64), rel=1e-6)
    assert processors.block_sums(weights).size == -(-size // processors.BLOCK)


def test_log_probabilities() -> None:
    (logits,) = random_logits(1)
    expected = torch.log_softmax(torch.from_numpy(logits), -1).numpy()
    np.testing.assert_allclose(processors.log_softmax(logits), expected, atol=1e-5)
