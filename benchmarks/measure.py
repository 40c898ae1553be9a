"""Numbers about numbers: interleaving, paired ratios, and how far one distribution over tokens is from another."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
T = TypeVar("T")

_ROWS = 64
"""Positions compared at once: a vocabulary of 262k tokens in float64 is 2 MB for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """How far logits are from a reference: mean KL(reference ‖ other) in nats, and how often the best token agrees."""

    mean_kl: float
    top1: float


def interleaved(names: Sequence[str], rounds: int, measure: Callable[[str], T]) -> dict[str, list[T]]:
    """What `measure` returned for each name: A, B, C, A, B, C, …, so that what disturbs one disturbs all.

    Between processes on a busy machine, `rounds.quiet_rounds` also leaves out what others disturbed.
    """
    results: dict[str, list[T]] = {name: [] for name in names}
    for _ in range(rounds):
        for name in names:
            results[name].append(measure(name))
    return results


def paired_ratio(values: Sequence[float], baseline: Sequence[float]) -> float:
    """The median of the rounds' own ratios: a slow moment of the machine is in both numbers of its round.

    Raises: ValueError if the rounds do not match.
    """
    if len(values) != len(baseline) or not values:
        raise ValueError(f"{len(values)} rounds against {len(baseline)}: as many are needed, at least one")
    return statistics.median(value / base for value, base in zip(values, baseline, strict=True))


def ratios(rounds: Mapping[str, Sequence[float]], baseline: str) -> dict[str, float]:
    """Every name's paired ratio to one of them; above 1 is slower. Empty if the baseline was not measured."""
    if baseline not in rounds:
        return {}
    return {name: paired_ratio(values, rounds[baseline]) for name, values in rounds.items()}


def divergence(reference: FloatArray, other: FloatArray) -> Divergence:
    """Compare logits [T, V] with a reference's. Raises: ValueError for different shapes."""
    if reference.shape != other.shape:
        raise ValueError(f"logits of shape {list(other.shape)} against {list(reference.shape)}")
    kl: list[float] = []
    for start in range(0, len(reference), _ROWS):
        p = _log_softmax(reference[start : start + _ROWS])
        q = _log_softmax(other[start : start + _ROWS])
        kl.extend((np.exp(p) * (p - q)).sum(axis=1).tolist())
    agreement = (reference.argmax(axis=1) == other.argmax(axis=1)).mean()
    return Divergence(mean_kl=float(np.mean(kl)), top1=float(agreement))


def _log_softmax(logits: FloatArray) -> npt.NDArray[np.float64]:
    values = logits.astype(np.float64)
    values -= values.max(axis=1, keepdims=True)
    result: npt.NDArray[np.float64] = values - np.log(np.exp(values).sum(axis=1, keepdims=True))
    return result
