"""The filters by their definitions: over the whole vocabulary, one row at a time, nothing clever."""

from __future__ import annotations

import itertools
import math

import numpy as np

from genai.decoding.processors import FloatArray
from genai.options.generation_config import SamplingConfig


def filtered_weights(logits: FloatArray, config: SamplingConfig) -> np.ndarray:
    """[V] float64: relative probabilities, 0 for what is ruled out; XTC not included."""
    logs = (logits - logits.max()) / np.float32(config.temperature)
    weights = np.exp(logs).astype(np.float64)
    if config.top_k:
        weights[logits < np.sort(logits)[-min(config.top_k, logits.size)]] = 0
    if config.typical_p < 1:
        weights[~_typical(weights, logs, config.typical_p)] = 0
    if config.top_p < 1:
        weights[~_nucleus(weights, logits, config.top_p)] = 0
    weights[weights < config.min_p * weights.max()] = 0
    return weights


def _typical(weights: np.ndarray, logs: FloatArray, mass: float) -> np.ndarray:
    total = math.fsum(weights)
    possible = [token for token in range(weights.size) if weights[token] > 0]
    surprises = {token: math.log(total) - float(logs[token]) for token in possible}
    entropy = math.fsum(weights[token] / total * surprises[token] for token in possible)
    distances = {token: abs(surprises[token] - entropy) for token in possible}
    reached, radius = 0.0, math.inf
    for token in sorted(possible, key=lambda token: distances[token]):
        reached += weights[token]
        if reached >= mass * total:
            radius = distances[token]
            break
    return np.array([distances.get(token, math.inf) <= radius + 1e-12 for token in range(weights.size)])


def _nucleus(weights: np.ndarray, logits: FloatArray, p: float) -> np.ndarray:
    kept, before, total = np.zeros(weights.size, np.bool_), 0.0, math.fsum(weights)
    for token in sorted(range(weights.size), key=lambda token: (-logits[token], token)):
        kept[token] = before < p * total
        before += weights[token]
    return kept


def without_top_choices(weights: np.ndarray, logits: FloatArray, threshold: float) -> np.ndarray:
    """XTC as in text-generation-webui: of the sorted tokens, those whose next one is at least the threshold go."""
    probabilities = weights / math.fsum(weights)
    order = sorted(np.flatnonzero(weights).tolist(), key=lambda token: (-logits[token], token))
    result = weights.copy()
    for token, following in itertools.pairwise(order):
        if probabilities[following] >= threshold:
            result[token] = 0
    return result
