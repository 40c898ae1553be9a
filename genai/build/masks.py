"""Additive masks of windows, of distances, and of queries picked out, written with whatever makes nodes.

tokens: any value [B, T]; keys: the indices of the slots that attention is given, [S], or [B, 1, 1, S] where rows
differ; write_indices: [B], in the same terms.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt
import onnx

from genai.build.graph import Attribute

V = TypeVar("V")
_FLOAT = int(onnx.TensorProto.FLOAT)


class NodeMaker(Protocol[V]):
    """What writes nodes into a graph; `V` is how it calls a value."""

    def op(self, kind: str, *inputs: V | None, **attributes: Attribute | None) -> V:
        """Add a node with one output."""
        ...

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike) -> V:
        """A small constant."""
        ...


def all_slots(nodes: NodeMaker[V], key_cache: V) -> V:
    """The slots of a whole cache, [S]."""
    zero, one = nodes.constant(0, np.int64), nodes.constant(1, np.int64)
    capacity = nodes.op("Squeeze", nodes.op("Shape", key_cache, start=1, end=2))
    return nodes.op("Range", zero, capacity, one)


def window_mask(
    nodes: NodeMaker[V], tokens: V, write_indices: V, keys: V, window: int, *, reserved_slots: int = 0
) -> V:
    """Additive mask [B, 1, T, S] float32 that hides keys older than the window; causality is Attention's own.

    Query t of a row stands at cache index `write_indices + t` and sees the keys j > that - window, and reserved slots.
    """
    queries = _queries(nodes, tokens, write_indices)
    oldest = nodes.op("Sub", queries, nodes.constant(window - 1, np.int64))
    return _additive(nodes, _older(nodes, keys, oldest, reserved_slots))


def chunk_mask(nodes: NodeMaker[V], tokens: V, write_indices: V, keys: V, size: int) -> V:
    """Additive mask [B, 1, T, S] float32 that hides keys before the query's own chunk of so many positions."""
    queries, length = _queries(nodes, tokens, write_indices), nodes.constant(size, np.int64)
    first = nodes.op("Mul", nodes.op("Div", queries, length), length)
    return _additive(nodes, nodes.op("Less", keys, first))


def distance_mask(nodes: NodeMaker[V], tokens: V, write_indices: V, keys: V, slopes: Sequence[float]) -> V:
    """Additive mask [B, heads, T, S] float32: each head's slope times how far a key lies before the query, as less.

    ALiBi (arXiv 2108.12409): `slope * min(j - query, 0)`; what lies behind the query Attention hides.
    """
    distances = nodes.op("Sub", keys, _queries(nodes, tokens, write_indices))
    distances = nodes.op("Cast", nodes.op("Min", distances, nodes.constant(0, np.int64)), to=_FLOAT)
    return nodes.op("Mul", distances, nodes.constant(np.reshape(slopes, (1, -1, 1, 1)), np.float32))


def _queries(nodes: NodeMaker[V], tokens: V, write_indices: V) -> V:
    """Each query's cache index, [B, 1, T, 1]."""
    zero, one = nodes.constant(0, np.int64), nodes.constant(1, np.int64)
    count = nodes.op("Squeeze", nodes.op("Shape", tokens, start=1, end=2))
    return nodes.op(
        "Add",
        nodes.op("Unsqueeze", write_indices, nodes.constant([1, 2, 3], np.int64)),
        nodes.op("Unsqueeze", nodes.op("Range", zero, count, one), nodes.constant([0, 1, 3], np.int64)),
    )


def mask_of_chosen(
    nodes: NodeMaker[V],
    positions: V,
    write_indices: V,
    keys: V,
    *,
    window: int | None,
    reserved_slots: int = 0,
) -> V:
    """Additive mask [B, 1, P, S] float32 for some of a step's queries, which Attention must not take for its last ones.

    positions: [B, P], which of the T tokens they are. Hides what comes after each, and what is older than its window.
    """
    queries = nodes.op(
        "Add",
        nodes.op("Unsqueeze", write_indices, nodes.constant([1, 2, 3], np.int64)),
        nodes.op("Unsqueeze", positions, nodes.constant([1, 3], np.int64)),
    )
    is_hidden = nodes.op("Greater", keys, queries)
    if window is not None:
        oldest = nodes.op("Sub", queries, nodes.constant(window - 1, np.int64))
        is_hidden = nodes.op("Or", is_hidden, _older(nodes, keys, oldest, reserved_slots))
    return _additive(nodes, is_hidden)


def _older(nodes: NodeMaker[V], keys: V, oldest: V, reserved_slots: int) -> V:
    is_older = nodes.op("Less", keys, oldest)
    if not reserved_slots:
        return is_older
    return nodes.op("And", is_older, nodes.op("GreaterOrEqual", keys, nodes.constant(reserved_slots, np.int64)))


def _additive(nodes: NodeMaker[V], is_hidden: V) -> V:
    return nodes.op("Where", is_hidden, nodes.constant(-np.inf, np.float32), nodes.constant(0, np.float32))
