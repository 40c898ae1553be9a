"""Choosing the next token of one sequence from its logits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genai.decoding import processors
from genai.decoding.processors import FloatArray
from genai.generation_config import SamplingConfig


class Sampler:
    """One sequence's way of choosing, with its own random stream: a seed gives the same tokens in any batch.

    prompt: the tokens that a repetition penalty counts as seen, beside those chosen here.
    """

    def __init__(self, config: SamplingConfig, prompt: Sequence[int], vocab_size: int) -> None:
        self._config = config
        self._random = np.random.Generator(np.random.PCG64(config.rng_seed))
        self._seen = np.zeros(vocab_size if config.repetition_penalty != 1 else 0, np.bool_)
        if self._seen.size:
            self._seen[list(prompt)] = True

    def choose(self, logits: FloatArray) -> int:
        """The next token for logits [V] float32, which are left as they are."""
        config = self._config
        if self._seen.size:
            logits = processors.penalize_repetition(logits, np.flatnonzero(self._seen), config.repetition_penalty)
        token = self._sampled(logits) if config.do_sample else int(logits.argmax())
        if self._seen.size:
            self._seen[token] = True
        return token

    def _sampled(self, logits: FloatArray) -> int:
        config = self._config
        if config.temperature != 1:
            logits = logits / np.float32(config.temperature)
        candidates = np.arange(logits.size)
        if 0 < config.top_k < logits.size:  # the rest then works on a handful of tokens
            candidates = np.flatnonzero(processors.keep_top_k(logits, config.top_k) > -np.inf)
            logits = logits[candidates]
        if config.top_p < 1:
            logits = processors.keep_top_p(logits, config.top_p)
        if config.min_p > 0:
            logits = processors.keep_min_p(logits, config.min_p)
        cumulative = np.cumsum(processors.softmax(logits), dtype=np.float64)
        index = int(np.searchsorted(cumulative, self._random.random() * cumulative[-1], side="right"))
        return int(candidates[min(index, candidates.size - 1)])
