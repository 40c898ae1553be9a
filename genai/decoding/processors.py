"""What the sampling options do, as small pure functions over many rows with different settings.

Two kinds, after what they work on:

- `logits: [N] float32` of single tokens of any rows, each with its own settings: a step touches few of a vocabulary's
  tokens, and only those are computed.
- `weights: [rows, n] float64` of tokens of each row, the most probable first; a weight is a probability up to a factor,
  0 for a token that is ruled out. `total: [rows]` sums the weights of all of a row's tokens, those not among the n too.
  A filter answers with weights of which some have become 0. A setting of "off" keeps everything, exactly.

Definitions are transformers' unless a docstring names another source.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
DoubleArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

BLOCK = 1024
"""Weights that are summed in float32, whose error does not grow much in so few."""
OFF = np.inf
"""The setting of `top_p` and `typical_p` that keeps every token: at 1, rounding could drop some."""


def changed(logits: FloatArray, bias: FloatArray, penalty: FloatArray, cost: FloatArray) -> FloatArray:
    """Logits with a bias, then a repetition penalty (arXiv 1909.05858), less what else a token costs; all [N].

    penalty: of tokens that the text has, 1 for others; cost: by OpenAI's presence and frequency penalties and by DRY;
    inf rules a token out.
    """
    biased = logits + bias
    result: FloatArray = np.where(biased > 0, biased / penalty, biased * penalty)
    result -= cost
    return result


def rule_out(logits: FloatArray, mask: BoolArray, out: FloatArray | None = None) -> FloatArray:
    """-inf for all tokens that are not in the mask; all of one shape. out: where to write it."""
    limits: FloatArray = np.subtract(mask, np.float32(0.5), out=out, dtype=np.float32)
    limits *= np.float32(np.inf)  # ±inf without a branch for each token: a mask can be as random as it likes
    return np.minimum(logits, limits, out=limits)


def scaled(
    logits: FloatArray,
    best: FloatArray | np.float32,
    temperature: FloatArray | np.float32,
    out: FloatArray | None = None,
) -> FloatArray:
    """(logits - best) / temperature, broadcast: the logs of weights, 0 for the best token. out: where to write it."""
    result = np.subtract(logits, best, out=out)
    if np.any(temperature != 1):
        result /= temperature
    return result


def keep_top_k(weights: DoubleArray, logits: FloatArray, k: IntArray) -> DoubleArray:
    """The k most probable tokens, and ties with the last of them. logits: [rows, n], falling; k: [rows], at least 1."""
    worst = logits[np.arange(len(logits)), np.minimum(k, logits.shape[1]) - 1]
    return np.where(logits >= worst[:, None], weights, 0)


def entropy(weights: DoubleArray, logs: FloatArray, total: DoubleArray) -> DoubleArray:
    """[rows], in nats, of rows whose tokens are all here. logs: [rows, n], the logs of weights (-inf or any for 0)."""
    products = np.multiply(weights, logs, where=weights > 0, out=np.zeros_like(weights))  # 0 * -inf is no number
    mean: DoubleArray = products.cumsum(axis=1)[:, -1] / total
    return np.log(total) - mean


def keep_typical(
    weights: DoubleArray, logs: FloatArray, total: DoubleArray, entropies: DoubleArray, mass: DoubleArray
) -> DoubleArray:
    """The tokens of the most typical surprise, as few as together reach `mass`, and ties (arXiv 2202.00666)."""
    rows = np.arange(len(weights))
    distances = np.abs((np.log(total) - entropies)[:, None] - logs)
    order = distances.argsort(axis=1, kind="stable")
    reached = weights[rows[:, None], order].cumsum(axis=1)
    last = np.minimum((reached < (mass * total)[:, None]).sum(axis=1), weights.shape[1] - 1)
    radius = distances[rows, order[rows, last]]
    return np.where(distances <= radius[:, None], weights, 0)


def keep_top_p(weights: DoubleArray, total: DoubleArray, p: DoubleArray) -> DoubleArray:
    """The most probable tokens, as few as together reach probability p (arXiv 1904.09751); of ties the first."""
    before = np.zeros_like(weights)
    np.cumsum(weights[:, :-1], axis=1, out=before[:, 1:])
    return np.where(before < (p * total)[:, None], weights, 0)


def keep_min_p(weights: DoubleArray, p: DoubleArray) -> DoubleArray:
    """Tokens at least p times as probable as the most probable one that is left (arXiv 2407.01082)."""
    return np.where(weights >= p[:, None] * weights.max(axis=1, keepdims=True), weights, 0)


def top_choices(weights: FloatArray | DoubleArray, total: float, threshold: float) -> IntArray:
    """Which places of weights [n] XTC leaves out: all but the least probable of those of probability >= threshold.

    total: the sum of the weights.

    Of ties the last place stays. Source: github.com/oobabooga/text-generation-webui, pull request 6335.
    """
    places = np.flatnonzero((weights >= threshold * total) & (weights > 0))
    return places[np.argsort(-weights[places], kind="stable")][:-1]


def total(weights: FloatArray) -> float:
    """The sum of weights [V], of blocks in float32 and of those in float64."""
    return float(block_sums(weights).sum(dtype=np.float64))


def block_sums(weights: FloatArray) -> FloatArray:
    """[V / BLOCK, rounded up]: the sums of each BLOCK of weights [V]."""
    end = weights.size - weights.size % BLOCK
    sums: FloatArray = weights[:end].reshape(-1, BLOCK).sum(axis=1)
    return sums if end == weights.size else np.append(sums, weights[end:].sum())


def log_softmax(logits: FloatArray) -> FloatArray:
    """Log probabilities [V] of logits [V]."""
    result: FloatArray = logits - logits.max()
    result -= np.float32(np.log(np.exp(result).sum(dtype=np.float64)))
    return result
