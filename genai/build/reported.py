"""A source that says how much of it has been read: what a build's progress is counted in."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from genai.build.source import JSON, BlockWeight, FloatArray, WeightSource
from genai.progress import Progress

_LABEL = "building"


class ReportedSource:
    """Another source, and how many hundredths of its elements have been read, each reported once."""

    def __init__(self, source: WeightSource, progress: Progress) -> None:
        self._source, self._progress = source, progress
        self._left = {name: math.prod(source.shape(name)) for name in source.names()}
        self._total = self._to_read = max(1, sum(self._left.values()))
        self._reported = 0

    @property
    def config(self) -> Mapping[str, JSON]:
        """The source's."""
        return self._source.config

    def names(self) -> Collection[str]:
        """The source's."""
        return self._source.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """The source's."""
        return self._source.shape(name)

    def read(self, name: str, rows: slice | None = None) -> FloatArray:
        """What the source gives."""
        array = self._source.read(name, rows)
        self._count(name, array.size)
        return array

    def read_blocks(self, name: str, rows: slice | None = None) -> BlockWeight | None:
        """What the source gives."""
        block = self._source.read_blocks(name, rows)
        if block is not None:
            self._count(name, block.values.size)
        return block

    def finish(self) -> None:
        """All is read that will be."""
        self._progress(_LABEL, 100, 100)

    def _count(self, name: str, size: int) -> None:
        """What is read a second time counts no more."""
        size = min(size, self._left[name])
        self._left[name] -= size
        self._to_read -= size
        if (done := 100 * (self._total - self._to_read) // self._total) > self._reported:
            self._reported = done
            self._progress(_LABEL, done, 100)
