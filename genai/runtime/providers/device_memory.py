"""Buffers on a device whose memory the host cannot touch: everything is a copy between ranges, told by address."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from genai.runtime.layout import Move
from genai.runtime.providers.base import Bytes

IntArray = npt.NDArray[np.int64]

_FIRST_ZEROS = 2**20
"""Bytes that come from the host when a buffer is cleared."""
_WORTHWHILE = 4 * 2**20
"""Bytes between two rows that are copied along with them: starting one more copy takes longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """Memory on the device, for as long as its owner lives."""

    pointer: int
    size: int
    owner: object


class Copier(Protocol):
    """What a device can do with its memory. No range is empty, and on the device none overlaps another."""

    def allocate(self, size: int) -> Block:
        """Memory with anything in it."""
        ...

    def copy(self, target: int, source: int, size: int) -> None:
        """Device to device."""
        ...

    def gather(self, target: int, source: Block, slots: IntArray, slot_bytes: int) -> None:
        """Device to device: these slots of a block, one after another."""
        ...

    def to_host(self, target: Bytes, source: int) -> None:
        """Device to host."""
        ...

    def from_host(self, target: int, source: Bytes) -> None:
        """Host to device."""
        ...


class DeviceMemory:
    """Allocates buffers that share one scratch block, as large as the largest of them.

    It comes on top of the cache's budget, in which there is a buffer for each of the graph's caches.
    """

    def __init__(self, copier: Copier) -> None:
        self.copier = copier
        self.scratch = Block(pointer=0, size=0, owner=None)

    def allocate(self, size: int) -> DeviceBuffer:
        """A buffer of this many bytes, all zero."""
        block = self.copier.allocate(max(size, 1))
        if block.size > self.scratch.size:
            self.scratch = self.copier.allocate(block.size)
        buffer = DeviceBuffer(self, block)
        buffer.clear(0, block.size)
        return buffer


class DeviceBuffer:
    """A block of device memory, addressed in bytes."""

    def __init__(self, memory: DeviceMemory, block: Block) -> None:
        self._memory = memory
        self._copier = memory.copier
        self._block = block

    @property
    def pointer(self) -> int:
        """Where it begins on the device."""
        return self._block.pointer

    def clear(self, offset: int, size: int) -> None:
        """Zero a range: a first piece from the host, which then doubles."""
        start, done = self.pointer + offset, min(size, _FIRST_ZEROS)
        if done:
            self._copier.from_host(start, np.zeros(done, np.uint8))
        while done < size:
            piece = min(done, size - done)
            self._copier.copy(start + done, start, piece)
            done += piece

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy `size` bytes within the buffer; the ranges do not overlap."""
        if size:
            self._copier.copy(self.pointer + target, self.pointer + source, size)

    def arrange(self, moves: Sequence[Move], slot_bytes: int) -> None:
        """Move rows, all at once: into the scratch as they will lie, and back."""
        spans = _spans(moves, _WORTHWHILE // slot_bytes)
        if not spans:
            return
        scratch = self._memory.scratch.pointer
        slots = np.concatenate([sources for _, sources in spans])
        self._copier.gather(scratch, self._block, slots, slot_bytes)
        for start, sources in spans:
            size = sources.size * slot_bytes
            self._copier.copy(self.pointer + start * slot_bytes, scratch, size)
            scratch += size

    def read(self, offset: int, size: int) -> Bytes:
        """A copy of a range in host memory."""
        data = np.empty(size, np.uint8)
        if size:
            self._copier.to_host(data, self.pointer + offset)
        return data

    def write(self, offset: int, data: Bytes) -> None:
        """Overwrite a range from host memory."""
        if data.size:
            self._copier.from_host(self.pointer + offset, np.ascontiguousarray(data))


def _spans(moves: Sequence[Move], longest_gap: int) -> list[tuple[int, IntArray]]:
    """What to write where: (first slot, the slot from which each comes). What lies in short gaps comes from itself."""
    sources = {move.row: move.source for move in moves if move.source is not None}
    spans: list[tuple[int, list[IntArray]]] = []
    end = 0
    for move in sorted((move for move in moves if move.target is not None), key=lambda move: move.target or 0):
        assert move.target is not None
        if spans and move.target - end <= longest_gap:
            spans[-1][1].append(np.arange(end, move.target))
        else:
            spans.append((move.target, []))
        source = sources[move.row]
        spans[-1][1].append(np.arange(source, source + move.length))
        end = move.target + move.length
    return [(start, np.concatenate(parts)) for start, parts in spans]
