"""A build's progress moves with what is read, whatever the pieces, and never goes back."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from genai.build.reported import ReportedSource
from genai.build.source import BlockWeight


class Source:
    """A table of 60 elements, a matrix of 30 in blocks, and a vector of 10 that nobody wants."""

    config: ClassVar = {"model_type": "tiny"}

    def names(self) -> list[str]:
        return ["table", "matrix", "vector"]

    def shape(self, name: str) -> tuple[int, ...]:
        return {"table": (6, 10), "matrix": (3, 10), "vector": (10,)}[name]

    def read(self, name: str, rows: slice | None = None) -> np.ndarray:
        return np.zeros(self.shape(name), np.float32)[rows or slice(None)]

    def read_blocks(self, name: str, rows: slice | None = None) -> BlockWeight | None:
        if name != "matrix":
            return None
        return BlockWeight(
            values=np.zeros((3, 10), np.uint8), scales=np.zeros((3, 1), np.float32), bits=4, block_size=10
        )


def test_each_element_counts_once() -> None:
    reports: list[tuple[str, int, int]] = []
    source = ReportedSource(Source(), lambda *report: reports.append(report))
    for start in (0, 2, 4):
        assert source.read_blocks("table", slice(start, start + 2)) is None
        assert source.read("table", slice(start, start + 2)).shape == (2, 10)
    assert [done for _, done, _ in reports] == [20, 40, 60]
    source.read("table")
    assert len(reports) == 3, "a second reading is no progress"
    source.read_blocks("matrix")
    source.finish()
    assert reports[3:] == [("building", 90, 100), ("building", 100, 100)]
