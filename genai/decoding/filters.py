"""The filters of many rows at once, on the candidates of each: top-k, typical-p, top-p, min-p.

First each row alone is looked at: as many candidates are found as its filters can possibly keep.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from genai.decoding import processors
from genai.decoding.candidates import Candidates, narrowed, passing, ranked, reaching, token_at
from genai.decoding.processors import DoubleArray, FloatArray, IntArray
from genai.options.generation_config import SamplingConfig

_LEAST_SHARES = (2**-13, 2**-16)
"""Where no top-k says how many tokens matter: those of at least such a probability are looked at first."""
_ONE_OF = 61
"""Where those are not enough, one of so many tokens tells how far down a top-p or typical-p reaches."""
_SAFETY = 0.8
"""The part of what those leave out that the sample's tail is to weigh: it is known roughly."""
_FEW = 1024
"""Candidates up to which rows are filtered together: each has as many columns as the one with most."""
_BELOW = 1e-3
"""How far below what min-p keeps a floor is laid, in logs of weights: more than rounding can make."""
_MARGIN = 1 + 1e-6
"""More than what rounding makes of the same number on another way."""
_NO_LIMIT = np.iinfo(np.int64).max
_LEAST_TEMPERATURE = 1e-30
"""What lower temperatures are taken as: float32 would make them 0."""


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
    """Look at the best tokens of logits [V], at more where filters reach beyond them.

    work: [2, V], written to; None for a new array.
    """
    if config.top_k:
        return Look(config=config, candidates=narrowed(logits, config.top_k), total=math.nan, entropy=math.nan)
    best = float(logits.max())
    total = entropy = math.nan
    weights = None
    if not math.isfinite(best):
        return Look(config=config, candidates=reaching(logits, best, best), total=total, entropy=entropy)  # refused
    if config.top_p < 1 or config.typical_p < 1:
        weights, total, entropy = _weighed(config, logits, best, work)
    for floor in _floors(config, best, weights, total):
        candidates = reaching(logits, floor, best)
        if _is_enough(config, candidates, total, entropy):
            break
    return Look(config=config, candidates=candidates, total=total, entropy=entropy)


def _floors(config: SamplingConfig, best: float, weights: FloatArray | None, total: float) -> Iterator[float]:
    """The logits down to which a row is looked at, one after the other until it is enough; the last is all there is.

    weights: [V], and their total, where top-p or typical-p is on.
    """
    temperature = float(temperature_of(config))
    floors = [] if weights is None else [best + temperature * math.log(share * total) for share in _LEAST_SHARES]
    if config.min_p:
        floors.append(best + temperature * (math.log(config.min_p) - _BELOW) - _BELOW * abs(best) * 2**-10)
    yield from sorted(floors, reverse=True)
    if weights is not None and (least := _least_weight(config, weights, total)) > 0:
        yield best + temperature * math.log(min(least, _LEAST_SHARES[-1] / 8 * total))
    yield -math.inf


def _least_weight(config: SamplingConfig, weights: FloatArray, total: float) -> float:
    """About the least of weights [V] that is kept: those below, as a sample has them, weigh less than is left out."""
    sample = np.sort(weights[::_ONE_OF])
    left_out = (1 - (config.typical_p if config.typical_p < 1 else config.top_p)) * total
    place = sample.cumsum(dtype=np.float64).searchsorted(_SAFETY * left_out / _ONE_OF)
    return float(sample[min(int(place), sample.size - 1)])


def _weighed(
    config: SamplingConfig, logits: FloatArray, best: float, work: FloatArray | None
) -> tuple[FloatArray, float, float]:
    """The weights [V] of all tokens, in `work` if there is some, their sum, and the entropy if needed, else NaN."""
    work = np.empty((2, logits.size), np.float32) if work is None else work
    logs = processors.scaled(logits, np.float32(best), temperature_of(config), work[0])
    if config.typical_p == 1:
        weights = np.exp(logs, out=logs)
        return weights, processors.total(weights), math.nan
    weights = np.exp(logs, out=work[1])
    total = processors.total(weights)
    with np.errstate(invalid="ignore"):
        logs *= weights
    mean = processors.total(logs)
    if math.isnan(mean):  # 0 * -inf, of tokens that are ruled out
        np.copyto(logs, 0, where=np.isnan(logs))
        mean = processors.total(logs)
    return weights, total, math.log(total) - mean / total


def _is_enough(config: SamplingConfig, candidates: Candidates, total: float, entropy: float) -> bool:
    """Whether filters can keep no token beyond the candidates: none of those has a logit above the floor."""
    if candidates.floor == -math.inf:
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


def are_many(found: Look) -> bool:
    """Whether a row is better drawn from alone, by `drawn_of_many`: typical-p keeps no tokens that are ranked first."""
    return found.candidates.tokens.size > _FEW and found.config.typical_p == 1 and not found.config.xtc.probability


def drawn_of_many(found: Look, share: float) -> int:
    """The token that `drawn` takes from what filters keep of a row, without ranking its tokens: values are enough."""
    config, candidates = found.config, found.candidates
    values = np.sort(candidates.logits)[::-1]
    logs = processors.scaled(values, values[:1], temperature_of(config))
    weights = np.exp(logs, out=logs).astype(np.float64)
    if config.top_k:
        weights = processors.keep_top_k(weights[None], values[None], np.array([config.top_k]))[0]
    reached = weights.cumsum(out=None if config.min_p else weights)  # in place: new memory costs as much as the sums
    if config.top_p < 1:
        total = float(reached[-1]) if math.isnan(found.total) else found.total
        num = 1 + int(reached[:-1].searchsorted(config.top_p * total))
        weights, reached = weights[:num], reached[:num]
    if config.min_p:
        reached = processors.keep_min_p(weights[None], np.array([config.min_p]))[0].cumsum()
    return token_at(candidates, values, passing(reached, share * float(reached[-1])))


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
    total = _known([each.total for each in looks], partial(_sum, weights))
    typical_p, top_p = (
        np.array([p if p < 1 else processors.OFF for p in settings])
        for settings in ([config.typical_p for config in configs], [config.top_p for config in configs])
    )
    has_typical = typical_p < processors.OFF
    if has_typical.any():
        entropies = _known([each.entropy for each in looks], partial(processors.entropy, weights, logs, total))
        weights = processors.keep_typical(weights, logs, total, entropies, typical_p)
        total = np.where(has_typical, _sum(weights), total)
    if (top_p < processors.OFF).any():
        weights = processors.keep_top_p(weights, total, top_p)
    if any(config.min_p for config in configs):
        weights = processors.keep_min_p(weights, np.array([config.min_p for config in configs]))
    return weights


def _known(given: Sequence[float], compute: Callable[[], DoubleArray]) -> DoubleArray:
    """[rows]: what is given, and what is computed where that is NaN."""
    known = np.array(given)
    return np.where(np.isnan(known), compute(), known) if np.isnan(known).any() else known


def _sum(weights: DoubleArray) -> DoubleArray:
    """[rows], summed from left to right: weights of 0 at the end, from rows with more candidates, change nothing."""
    result: DoubleArray = weights.cumsum(axis=1)[:, -1]
    return result
