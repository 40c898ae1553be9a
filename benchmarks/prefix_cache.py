"""How long an engine stands still while a long prompt is put into the prefix cache, or taken from it.

For each shape of cache: seconds to remember a row that is new, and to remember it again; to give one whose blocks are
found, and to take up one that is idle; and what copying the same bytes once takes. Hashing is part of all of them.

python -m benchmarks.prefix_cache [--tokens 131072] [--rounds 5]
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from genai.config import EngineConfig
from genai.contract import uniform_caches
from genai.engine.prefix_cache import BLOCK_SIZE, PrefixCache
from genai.engine.request import ModelLimits, Request, job_of
from genai.engine.rows import Rows, row_of
from genai.engine.sequence import Sequence as Text
from genai.options.generation_config import GenerationConfig
from genai.runtime.cache import KVCache
from genai.runtime.cache_shape import CacheShape
from genai.runtime.providers.cpu import CpuProvider

SHAPES = {
    "few layers": CacheShape(caches=uniform_caches(4, 32), dtype="float32"),
    "many layers": CacheShape(caches=uniform_caches(32, 4), dtype="float32"),
}
"""A kilobyte a token each: what differs is into how many pieces it falls."""


def text_of(tokens: list[int]) -> Text:
    limits = ModelLimits(vocab_size=2**31, max_seq_len=len(tokens) + 2, eos_token_ids=())
    return job_of(Request(prompt=tokens, config=GenerationConfig()), limits)[1]


def timed(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(shape: CacheShape, num_tokens: int) -> dict[str, float]:
    """Seconds of each, for a prompt of its own."""
    tokens = [random.randrange(100_000) for _ in range(num_tokens)]
    cache = KVCache(shape, num_tokens + 1024, CpuProvider(EngineConfig()))
    rows = Rows(cache, PrefixCache(b"", shape.slot_bytes, num_tokens * shape.bytes_per_token))
    first, again = text_of(tokens), text_of([*tokens, 1, 1])
    rows.give(first)
    assert first.row is not None, "it has just been given"
    noise = np.random.default_rng(0).integers(0, 256, num_tokens * shape.slot_bytes[0], dtype=np.uint8)
    cache.free(first.row)
    first.row = cache.import_row([noise] * len(shape.caches), num_tokens)
    first.num_computed = num_tokens
    buffers = [np.zeros_like(noise) for _ in shape.caches]
    result = {
        "copy": timed(lambda: [np.copyto(buffer, noise) for buffer in buffers]),
        "put": timed(lambda: rows.remember(first)),
        "put again": timed(lambda: rows.remember(first)),
    }
    rows.release(first)
    result["take"] = timed(lambda: rows.give(again))
    assert again.num_computed == num_tokens // BLOCK_SIZE * BLOCK_SIZE
    assert next(cache.export_row(row_of(again))).tobytes() == noise.tobytes()
    rows.retire(again)
    more = text_of([*tokens, 2, 2])
    result["take up idle"] = timed(lambda: rows.give(more))
    assert (more.row, more.num_computed) == (cache.rows[0], num_tokens)
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=2**17)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args(arguments)
    for name, shape in SHAPES.items():
        rounds = [measure(shape, options.tokens) for _ in range(options.rounds)]
        medians = {kind: statistics.median(each[kind] for each in rounds) for kind in rounds[0]}
        size = options.tokens * shape.bytes_per_token / 1e6
        print(f"{name:12} {size:.0f} MB:", ", ".join(f"{kind} {seconds:.3f} s" for kind, seconds in medians.items()))


if __name__ == "__main__":
    main()
