"""Log probabilities as the model gives them, before any option of sampling."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genai.decoding.candidates import best_tokens
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
    return TokenLogprob(
        token_id=token,
        logprob=float(logits[token]) - normalizer,
        top=tuple((each, float(logits[each]) - normalizer) for each in best_tokens(logits, num_top)),
    )
