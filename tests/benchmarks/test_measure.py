"""Interleaving, ratios and divergences."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.measure import divergence, interleaved, paired_ratio, ratios


def test_interleaving_takes_turns() -> None:
    order: list[str] = []

    def measure(name: str) -> int:
        order.append(name)
        return len(order)

    results = interleaved(["a", "b", "c"], 3, measure)
    assert order == ["a", "b", "c"] * 3
    assert results == {"a": [1, 4, 7], "b": [2, 5, 8], "c": [3, 6, 9]}


def test_paired_ratio_is_not_moved_by_a_slow_moment() -> None:
    # The machine is ten times slower in the second round, for both.
    assert paired_ratio([2.0, 20.0, 2.0], [1.0, 10.0, 1.0]) == 2.0


@pytest.mark.parametrize(("values", "baseline"), [([1.0], [1.0, 2.0]), ([], [])])
def test_rounds_have_to_match(values: list[float], baseline: list[float]) -> None:
    with pytest.raises(ValueError, match="as many are needed"):
        paired_ratio(values, baseline)


def test_ratios_are_to_a_baseline() -> None:
    rounds = {"ours": [1.0, 2.0, 3.0], "theirs": [2.0, 3.0, 6.0]}
    assert ratios(rounds, "ours") == {"ours": 1.0, "theirs": 2.0}
    assert ratios(rounds, "nobody") == {}


def test_divergence_from_itself_is_none() -> None:
    logits = np.random.default_rng(0).standard_normal((130, 7)).astype(np.float32)
    found = divergence(logits, logits + 3)  # logits count up to a constant
    assert found.mean_kl == pytest.approx(0, abs=1e-9)
    assert found.top1 == 1.0


def test_divergence_by_hand() -> None:
    reference = np.log(np.array([[0.75, 0.25], [0.5, 0.5]], np.float32))
    other = np.log(np.array([[0.25, 0.75], [0.5, 0.5]], np.float32))
    found = divergence(reference, other)
    assert found.mean_kl == pytest.approx((0.75 * math.log(3) - 0.25 * math.log(3)) / 2, rel=1e-6)
    assert found.top1 == 0.5


def test_divergence_needs_equal_shapes() -> None:
    with pytest.raises(ValueError, match=r"\[2, 3\] against \[2, 4\]"):
        divergence(np.zeros((2, 4), np.float32), np.zeros((2, 3), np.float32))
