"""Which of a step's tokens are a row's own, and short convolutions over them; for whatever makes nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np

from genai.build.masks import NodeMaker

V = TypeVar("V")


def own_tokens(nodes: NodeMaker[V], input_ids: V, token_counts: V) -> V:
    """Which of a step's tokens are a row's own, [B, T, 1]: the others pad it, on the right."""
    zero, one = nodes.constant(0, np.int64), nodes.constant(1, np.int64)
    count = nodes.op("Squeeze", nodes.op("Shape", input_ids, start=1, end=2))
    counts = nodes.op("Unsqueeze", token_counts, nodes.constant([1], np.int64))
    is_own = nodes.op("Less", nodes.op("Range", zero, count, one), counts)
    return nodes.op("Unsqueeze", is_own, nodes.constant([2], np.int64))


def tail(nodes: NodeMaker[V], token_counts: V, kernel: int) -> V:
    """The last `kernel - 1` of the inputs that a convolution's state and a row's own tokens are, [B, kernel - 1, 1]."""
    counts = nodes.op("Unsqueeze", token_counts, nodes.constant([1, 2], np.int64))
    return nodes.op("Add", counts, nodes.constant(np.arange(kernel - 1).reshape(1, -1, 1), np.int64))


def convolved(nodes: NodeMaker[V], inputs: V, x: V, factors: Sequence[V]) -> V:
    """Each channel's weighted sum of its last inputs, [B, T, channels].

    inputs: a state and x behind it, [B, kernel - 1 + T, channels]; factors: [channels] each, the newest input's last.
    Products of shifted inputs: 15 times as fast as the operator there is.
    """
    axis, kernel = nodes.constant([1], np.int64), len(factors)
    total = nodes.op("Mul", x, factors[-1])
    for place, factor in enumerate(factors[:-1]):
        bounds = (nodes.constant([bound], np.int64) for bound in (place, place + 1 - kernel))
        total = nodes.op("Add", total, nodes.op("Mul", nodes.op("Slice", inputs, *bounds, axis), factor))
    return total
