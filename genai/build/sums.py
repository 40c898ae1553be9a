"""A product's input followed by its sums over blocks, which weights with offsets need; for whatever makes nodes."""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from genai.build.masks import NodeMaker
from genai.build.quantize import num_offset_columns

V = TypeVar("V")


def followed_by_sums(nodes: NodeMaker[V], x: V, rank: int, num_inputs: int, block_size: int) -> V:
    """A value [..., K] of this rank followed by its sums over blocks, twice (`quantize.with_offset_columns`)."""
    num_blocks = num_inputs // block_size
    blocks = nodes.op("Reshape", x, nodes.constant([*[0] * (rank - 1), num_blocks, block_size], np.int64))
    sums = nodes.op("ReduceSum", blocks, nodes.constant([-1], np.int64), keepdims=0)
    if missing := num_offset_columns(num_inputs, block_size) - num_blocks:
        sums = nodes.op("Pad", sums, nodes.constant([*[0] * (2 * rank - 1), missing], np.int64))
    return nodes.op("Concat", x, sums, sums, axis=-1)
