"""Where logits are written: one buffer for all shapes of run, since those of a large vocabulary take much memory.

one run after another   │ run 1 ──────│               run 2 overwrites it
inside `kept()`         │ run 1 ──────│ run 2 ─│ run 3 ──│
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]


class LogitsMemory:
    """Memory for the logits of runs, as large as they have ever needed."""

    def __init__(self) -> None:
        self._buffer = np.empty(0, np.float32)
        self._used = 0
        self._keeps = False

    @property
    def num_bytes(self) -> int:
        """Its size."""
        return self._buffer.nbytes

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Inside, no run overwrites what another one inside gave; the first run afterwards does."""
        self._used, self._keeps = 0, True
        try:
            yield
        finally:
            self._keeps = False

    def take(self, shape: Sequence[int]) -> FloatArray:
        """Memory for the next run, with anything in it; what was taken before is gone unless it is kept."""
        start = self._used if self._keeps else 0
        self._used = start + math.prod(shape)
        if self._used > self._buffer.size:  # what is kept lives on in the old buffer as long as somebody has it
            self._buffer = np.empty(self._used, np.float32)
        return self._buffer[start : self._used].reshape(shape)
