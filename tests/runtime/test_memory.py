from __future__ import annotations

import numpy as np

from genai.runtime.memory import HostMemory


def test_new_memory_is_zero() -> None:
    """Whatever the allocator hands out again: a NaN beyond a row's valid length would reach its attention."""
    for size in (1000, 100_000):
        dirty = np.full(size + 64, 255, np.uint8)
        del dirty
        assert not HostMemory().allocate(size).read(0, size).any()
