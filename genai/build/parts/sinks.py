"""Attention sinks: a score of each query head that takes its part of the softmax and gives nothing.

As further elements of queries and keys they need no mask, and Attention stays one operator. With g query heads to a
key head, the rows of a cache begin with a reserved slot, of which head h reads its own sink:

    query of head h   [ q … | 0 … 1 … 0 ]      1 at h mod g
    key of a token    [ k … | 0 … 0 … 0 ]
    reserved key      [ 0 … | sinks / scale ]  value: zeros
"""

from __future__ import annotations

import numpy as np

from genai import contract
from genai.build.parts.context import Context
from genai.build.spec import AttentionSpec


def in_queries(ctx: Context, q: str, heads: AttentionSpec) -> str:
    """Queries [B, T, heads * head_dim] with the elements that read the sinks; themselves in layers without."""
    if not heads.has_sinks:
        return q
    return _widened(ctx, q, heads.num_heads, heads, np.tile(np.eye(heads.sink_size), (heads.num_kv_heads, 1)))


def in_keys(ctx: Context, k: str, heads: AttentionSpec, layer: int) -> str:
    """Keys [B, T, heads * head_dim] with zeros for the sinks, which the layer's reserved slot gets."""
    if not heads.has_sinks:
        return k
    sinks = ctx.weights.read(f"model.layers.{layer}.{heads.name}.sinks", (heads.num_heads,))
    start = np.zeros((heads.num_kv_heads, heads.head_dim + heads.sink_size), np.float32)
    start[:, heads.head_dim :] = sinks.reshape(heads.num_kv_heads, -1) / np.float32(heads.scale)
    ctx.graph.row_start[contract.key_cache(layer)] = start.reshape(-1)
    return _widened(ctx, k, heads.num_kv_heads, heads, None)


def _widened(ctx: Context, x: str, num_heads: int, heads: AttentionSpec, added: np.ndarray | None) -> str:
    """Each head with `sink_size` elements more: these [num_heads, sink_size], or zeros."""
    graph, width = ctx.graph, heads.head_dim + heads.sink_size
    split = graph.op("Reshape", x, graph.constant([0, 0, num_heads, heads.head_dim], np.int64))
    wide = graph.op("Pad", split, graph.constant([0] * 7 + [heads.sink_size], np.int64))
    if added is not None:
        wide = graph.op("Add", wide, graph.constant(np.pad(added, ((0, 0), (heads.head_dim, 0))), ctx.dtype))
    return graph.op("Reshape", wide, graph.constant([0, 0, num_heads * width], np.int64))
