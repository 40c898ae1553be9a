"""Log probabilities as the model gives them, before any option of sampling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genai.decoding.processors import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenLogprob:
    """A token and its log probability (natural); top: the most probable tokens in its place, best first."""

    token_id: int
    logprob: float
    top: tuple[tuple[int, float], ...] = ()


def token_logprob(logits: FloatArray, token: int, num_top: int = 0) -> TokenLogprob:
    """The log probability of one token, and the `num_top` most probable ones; logits: [V] float32."""
    largest = logits.max()
    normalizer = float(largest) + float(np.log(np.exp(logits - largest).sum(dtype=np.float64)))
    best = most_probable(logits, num_top)
    return TokenLogprob(
        token_id=token,
        logprob=float(logits[token]) - normalizer,
        top=tuple((int(each), float(logits[each]) - normalizer) for each in best),
    )


def most_probable(logits: FloatArray, count: int) -> list[int]:
    """The tokens with the largest logits [V], best first; of equal ones the smaller id."""
    if count < 1:
        return []
    if count >= logits.size:
        candidates = np.arange(logits.size)
    else:
        threshold = np.partition(logits, logits.size - count)[logits.size - count]
        candidates = np.flatnonzero(logits >= threshold)
    order = np.lexsort((candidates, -logits[candidates]))
    return [int(token) for token in candidates[order[:count]]]
