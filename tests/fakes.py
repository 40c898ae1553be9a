"""Stand-ins for the graph: a runner whose "model" reads the cache, so that a wrong copy gives a wrong text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genai.errors import GraphRunError
from genai.runtime.cache import CacheShape, KVCache
from genai.runtime.memory import HostMemory

VOCAB_SIZE = 97
SHAPE = CacheShape(num_buffers=2, kv_size=1, dtype="float32")


def small_cache(num_slots: int) -> KVCache:
    return KVCache(SHAPE, num_slots, HostMemory())


def write_tokens(cache: KVCache, row: int, start: int, tokens: Sequence[int]) -> None:
    """What a graph would do: the new tokens' "keys" (the token) and "values" (its negative) behind the valid part."""
    assert start + len(tokens) <= cache.capacity(row), "a write beyond the row's capacity"
    data = np.array(tokens, np.float32)
    offset = (cache._layout.place(row).start + start) * SHAPE.slot_bytes
    for buffer, values in zip(cache._buffers, (data, -data), strict=True):
        buffer.write(offset, values.view(np.uint8))


def read_tokens(cache: KVCache, row: int) -> list[int]:
    """The tokens that a row holds, checked to be the same in both buffers."""
    keys, values = (data.view(np.float32) for data in cache.export_row(row))
    np.testing.assert_array_equal(keys, -values)
    return [int(key) for key in keys]


def next_logits(tokens: Sequence[int]) -> np.ndarray:
    """Logits [V] that depend on every token and its place."""
    seed = 0
    for token in tokens:
        seed = (seed * 31 + token + 1) % (2**31 - 1)
    return np.random.default_rng(seed).standard_normal(VOCAB_SIZE).astype(np.float32)


def greedy_continuation(prompt: Sequence[int], num_tokens: int) -> list[int]:
    """What the fake model says after a prompt, computed without any cache."""
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append(int(next_logits(tokens).argmax()))
    return tokens[len(prompt) :]


class FakeRunner:
    """Runs the fake model over a real cache; `fail_at` makes that run (counted from 0) raise."""

    vocab_size = VOCAB_SIZE

    def __init__(self, num_slots: int, fail_at: int | None = None) -> None:
        self.cache = small_cache(num_slots)
        self.num_runs = 0
        self.longest_run = 0
        self._fail_at = fail_at

    def prefill_chunk(self, row: int, tokens: Sequence[int]) -> np.ndarray:
        self._count(len(tokens))
        self.cache.reserve(row, self.cache.valid(row) + len(tokens))
        self._append(row, tokens)
        return next_logits(read_tokens(self.cache, row))

    def decode(self, tokens: Sequence[int | None]) -> np.ndarray:
        self._count(1)
        for row, token in zip(self.cache.rows, tokens, strict=True):
            if token is None:  # the graph writes padding there too
                write_tokens(self.cache, row, self.cache.valid(row), [0])
            else:
                self._append(row, [token])
        return np.stack([next_logits(read_tokens(self.cache, row)) for row in self.cache.rows])

    def _append(self, row: int, tokens: Sequence[int]) -> None:
        write_tokens(self.cache, row, self.cache.valid(row), tokens)
        self.cache.extend(row, len(tokens))
        self.cache.check_integrity()

    def _count(self, num_tokens: int) -> None:
        if self.num_runs == self._fail_at:
            raise GraphRunError("injected failure")
        self.num_runs += 1
        self.longest_run = max(self.longest_run, num_tokens)
