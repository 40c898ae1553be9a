"""What layers with windows or chunks read of their caches: all of a short one, the part in reach of a long one.

Attention takes time for every slot that it is given, seen or hidden. So where a cache is much longer than window and
new tokens, its part is copied out first, for each row from its own place on:

    row 0   ············▒▒▒▒▒▒▒▒█····      ▒ in reach   █ new tokens
    row 1   ····▒▒▒▒▒▒▒▒█············      both are given as  ▒▒▒▒▒▒▒▒█

A part begins at a multiple of the slots that kernels add up at a time, so that a token keeps its bits in every part and
in the whole: what they add before is zero.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genai import contract
from genai.build.graph import GraphBuilder

_WORTHWHILE = 2
"""A part is read where the cache is longer than this many of it: the copy takes as long as attention over the part."""
_ROUNDED = 16
"""Parts are as long as a multiple of it, as capacities are."""
_ADDED = 128 * 128
"""Products on CPU take blocks of so many elements at a time: slots × elements of a head, 16 to 128 of these."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """The slots that layers of a window are given; those of chunks, too: these reach no further than such a window.

    is_part: whether they are fewer than the cache has, a bool; slots: their cache indices, [B, n, 1]; keys: the same,
    [B, 1, 1, n], beyond the cache's end, too, where no tokens are; valid: [B], how many of them are written.
    """

    is_part: str
    slots: str
    keys: str
    valid: str

    @classmethod
    def build(cls, graph: GraphBuilder, key_cache: str, window: int, head_dim: int, reserved_slots: int) -> Reach:
        """Write what is the same for all layers of a window. head_dim: of values, the smallest."""

        def number(value: int) -> str:
            return graph.constant(value, np.int64)

        def size(value: str, axis: int) -> str:
            return graph.op("Squeeze", graph.op("Shape", value, start=axis, end=axis + 1))

        block, one = block_slots(head_dim), number(1)
        capacity = size(key_cache, 1)
        most = graph.op("Add", size(contract.POSITION_IDS, 1), number(window + block + reserved_slots + _ROUNDED - 3))
        most = graph.op("Mul", graph.op("Div", most, number(_ROUNDED)), number(_ROUNDED))
        is_part = graph.op("Less", graph.op("Mul", most, number(_WORTHWHILE)), capacity)
        count = graph.op("Where", is_part, most, capacity)
        first = graph.op("Sub", contract.WRITE_INDICES, number(window - 1 + reserved_slots))
        first = graph.op("Div", graph.op("Max", first, number(0)), number(block))
        first = graph.op("Where", is_part, graph.op("Mul", first, number(block)), number(0))
        places = graph.op("Range", number(0), count, one)
        keys = graph.op("Add", places, graph.op("Unsqueeze", first, graph.constant([1, 2, 3], np.int64)))
        if reserved_slots:
            keys = graph.op("Where", graph.op("Less", places, number(reserved_slots)), places, keys)
        last = graph.op("Sub", capacity, one)
        slots = graph.op("Reshape", graph.op("Min", keys, last), graph.constant([0, -1, 1], np.int64))
        valid = graph.op("Sub", contract.NONPAD_KV_SEQLEN, first)
        return cls(is_part=is_part, slots=slots, keys=keys, valid=valid)

    def part(self, graph: GraphBuilder, cache: str) -> str:
        """A copy of these slots of a cache, [B, n, width]."""
        return graph.op("GatherND", cache, self.slots, batch_dims=1)


def is_worthwhile(max_position: int, window: int, head_dim: int) -> bool:
    """Whether texts may get so long that a part of a cache is read."""
    return max_position > _WORTHWHILE * (window + block_slots(head_dim))


def block_slots(head_dim: int) -> int:
    """How many slots kernels add up at a time where heads have so many elements."""
    return _ADDED // min(max(1 << (head_dim - 1).bit_length(), 16), 128)
