"""Logits processors: small pure functions over one row of logits [V] float32, each returning a new row.

A token is ruled out by a logit of -inf. The definitions are transformers', which the tests compare with.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


def penalize_repetition(logits: FloatArray, seen: IntArray, penalty: float) -> FloatArray:
    """Divide positive logits of tokens already seen by `penalty` and multiply negative ones (arXiv 1909.05858)."""
    result = logits.copy()
    scores = result[seen]
    result[seen] = np.where(scores > 0, scores / penalty, scores * penalty)
    return result


def keep_top_k(logits: FloatArray, k: int) -> FloatArray:
    """Rule out all but the k most probable tokens, and ties with the last of them."""
    if k >= logits.size:
        return logits
    threshold = np.partition(logits, -k)[-k]
    return np.where(logits < threshold, np.float32(-np.inf), logits)


def keep_top_p(logits: FloatArray, p: float) -> FloatArray:
    """Keep the smallest set of most probable tokens that together reach probability p (arXiv 1904.09751)."""
    order = np.argsort(-logits, kind="stable")
    cumulative = np.cumsum(softmax(logits[order]), dtype=np.float64)
    num_kept = int(np.searchsorted(cumulative, p)) + 1
    result = logits.copy()
    result[order[num_kept:]] = -np.inf
    return result


def keep_min_p(logits: FloatArray, p: float) -> FloatArray:
    """Rule out tokens less probable than p times the most probable one (arXiv 2407.01082)."""
    threshold = logits.max() + np.float32(np.log(p))
    return np.where(logits < threshold, np.float32(-np.inf), logits)


def softmax(logits: FloatArray) -> FloatArray:
    """Probabilities [V] of logits [V]."""
    weights: FloatArray = np.exp(logits - logits.max())
    weights /= weights.sum(dtype=np.float64)
    return weights


def log_probability(logits: FloatArray, token: int) -> float:
    """The log probability of one token."""
    shifted = logits - logits.max()
    return float(shifted[token] - np.log(np.exp(shifted).sum(dtype=np.float64)))
