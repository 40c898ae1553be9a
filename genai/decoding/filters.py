"""The filters of many rows at once, on the candidates of each: top-k, typical-p, top-p, min-p.

First each row alone is looked at: as many candidates are found as its filters can possibly keep.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from genai.decoding import processors
from genai.decoding.candidates import Candidates, narrowed, ranked
from genai.decoding.processors import DoubleArray, FloatArray, IntArray
from genai.options.generation_config import SamplingConfig

_FIRST_NUM = 256
"""Candidates to begin with where no top-k says how many matter."""
_WIDEN = 4
"""How many times more a row gets when its filters reach beyond those it has."""
_FEW = 1024
"""Candidates up to which rows are filtered together: each has as many columns as the one with most."""
_MARGIN = 1 + 1e-6
"""More than what rounding makes of the same number on another way."""
_NO_LIMIT = np.iinfo(np.int64).max
_LEAST_TEMPERATURE = 1e-30
"""What lower temperatures are taken as: float32 would make them 0."""
_NEGLIGIBLE = -200.0
"""A log whose weight is 0 in float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What filters have to know of a row: candidates beyond which they keep no token.

    total: the weight of all of the row's tokens, and entropy: of their distribution, both where a filter needs them (a
    top-k makes the candidates all there is), else NaN.
    """

    config: SamplingConfig
    candidates: Candidates
    total: float
    entropy: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """tokens: [rows, n], the most probable first; weights: [rows, n] float64, 0 for those that filters rule out."""

    tokens: IntArray
    weights: DoubleArray


def has_filters(config: SamplingConfig) -> bool:
    """Whether any filter is on."""
    return config.top_k > 0 or config.top_p < 1 or config.typical_p < 1 or config.min_p > 0


def look(config: SamplingConfig, logits: FloatArray, work: FloatArray | None = None) -> Look:
    """Look at the best tokens of logits [V], at more and more where filters reach beyond them.

    work: [V], written to; None for a new array.
    """
    num = config.top_k or _FIRST_NUM
    candidates = narrowed(logits, num)
    total = entropy = math.nan
    if not math.isfinite(candidates.best):
        return Look(config=config, candidates=candidates, total=total, entropy=entropy)  # for the caller to refuse
    if not config.top_k and (config.top_p < 1 or config.typical_p < 1):
        total, entropy = _sums(config, logits, candidates.best, work)
    while not _is_enough(config, candidates, total, entropy):
        num *= _WIDEN
        candidates = narrowed(logits, num)
    return Look(config=config, candidates=candidates, total=total, entropy=entropy)


def _sums(config: SamplingConfig, logits: FloatArray, best: float, work: FloatArray | None) -> tuple[float, float]:
    """The weight of all tokens, and the entropy if a filter needs it, else NaN."""
    logs = processors.scaled(logits, np.float32(best), temperature_of(config), work)
    if config.typical_p == 1:
        return processors.total(np.exp(logs, out=logs)), math.nan
    weights = np.exp(logs)
    total = processors.total(weights)
    np.maximum(logs, _NEGLIGIBLE, out=logs)  # 0 * -inf is no number
    logs *= weights
    return total, math.log(total) - processors.total(logs) / total


def _is_enough(config: SamplingConfig, candidates: Candidates, total: float, entropy: float) -> bool:
    """Whether filters can keep no token beyond the candidates: none of those has a logit above the floor."""
    if config.top_k or candidates.floor == -math.inf:
        return True
    best, temperature = np.float32(candidates.best), temperature_of(config)
    floor_log = float((np.float32(candidates.floor) - best) / temperature)
    if config.typical_p == 1 and math.exp(floor_log) * _MARGIN < config.min_p:
        return True
    logs = processors.scaled(candidates.logits, best, temperature)
    weights = np.exp(logs)
    share = config.top_p
    if config.typical_p < 1:  # nearer to the entropy than any other token
        share, typical = config.typical_p, math.log(total) - entropy
        weights = weights[np.abs(typical - logs.astype(np.float64)) * _MARGIN < typical - floor_log]
    return share < 1 and float(weights.sum(dtype=np.float64)) > share * total * _MARGIN


def temperature_of(config: SamplingConfig) -> np.float32:
    """The temperature, above 0 in float32 too."""
    return np.float32(max(config.temperature, _LEAST_TEMPERATURE))


def filtered(looks: Mapping[int, Look]) -> Iterator[tuple[list[int], Kept]]:
    """What filters keep of rows, given by index: the rows with few candidates together, each with many alone."""
    few = [index for index, each in looks.items() if each.candidates.tokens.size <= _FEW]
    many = [index for index in looks if index not in few]
    for indices in ([few] if few else []) + [[index] for index in many]:
        rows = [looks[index] for index in indices]
        tokens, logits = ranked([each.candidates for each in rows])
        yield indices, Kept(tokens=tokens, weights=_filtered(logits, rows))


def _filtered(logits: FloatArray, looks: Sequence[Look]) -> DoubleArray:
    """Weights [rows, n] of ranked logits after the filters; a setting of "off" keeps all of its row."""
    configs = [each.config for each in looks]
    logs = processors.scaled(logits, logits[:, :1], np.array([[temperature_of(config)] for config in configs]))
    weights = np.exp(logs).astype(np.float64)
    if any(config.top_k for config in configs):
        k = np.array([config.top_k or _NO_LIMIT for config in configs])
        weights = processors.keep_top_k(weights, logits, k)
    total = _known([each.total for each in looks], _sum(weights))
    typical_p, top_p = (
        np.array([p if p < 1 else processors.OFF for p in settings])
        for settings in ([config.typical_p for config in configs], [config.top_p for config in configs])
    )
    has_typical = typical_p < processors.OFF
    if has_typical.any():
        entropies = _known([each.entropy for each in looks], processors.entropy(weights, logs, total))
        weights = processors.keep_typical(weights, logs, total, entropies, typical_p)
        total = np.where(has_typical, _sum(weights), total)
    if (top_p < processors.OFF).any():
        weights = processors.keep_top_p(weights, total, top_p)
    if any(config.min_p for config in configs):
        weights = processors.keep_min_p(weights, np.array([config.min_p for config in configs]))
    return weights


def _known(given: Sequence[float], computed: DoubleArray) -> DoubleArray:
    """[rows]: what is given, and what was computed where that is NaN."""
    if all(map(math.isnan, given)):
        return computed
    known = np.array(given)
    return np.where(np.isnan(known), computed, known)


def _sum(weights: DoubleArray) -> DoubleArray:
    """[rows], summed from left to right: weights of 0 at the end, from rows with more candidates, change nothing."""
    result: DoubleArray = weights.cumsum(axis=1)[:, -1]
    return result
