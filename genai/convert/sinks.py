"""Attention sinks of foreign graphs as elements of queries and keys, as `genai.build.parts.sinks` writes them.

query of head h   [ q … | 0 … 1 … 0 ]      1 at h mod g, g query heads to a key head
key of a token    [ k … | 0 … 0 … 0 ]
reserved key      [ 0 … | sinks / scale ]  a slot that every row begins with; its value is zero
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from genai.build.source import FloatArray
from genai.convert.nodes import Nodes


def in_queries(nodes: Nodes, q: ir.Value, num_heads: int, num_kv_heads: int, head_dim: int) -> ir.Value:
    """Queries [B, T, H * D] with the elements that read the sinks, [B, T, H * (D + g)]."""
    group = num_heads // num_kv_heads
    wide = _padded(nodes, q, num_heads, head_dim, group)
    ones = np.pad(np.tile(np.eye(group), (num_kv_heads, 1)), ((0, 0), (head_dim, 0)))
    dtype = wide.dtype or ir.DataType.FLOAT
    return _flat(
        nodes, nodes.typed("Add", wide, nodes.constant(ones, dtype.numpy()), dtype=dtype), q, num_heads * ones.shape[1]
    )


def in_keys(nodes: Nodes, k: ir.Value, num_heads: int, num_kv_heads: int, head_dim: int) -> ir.Value:
    """Keys [B, T, Hkv * D] with zeros for the sinks, [B, T, Hkv * (D + g)]."""
    group = num_heads // num_kv_heads
    return _flat(nodes, _padded(nodes, k, num_kv_heads, head_dim, group), k, num_kv_heads * (head_dim + group))


def reserved_key(sinks: tuple[float, ...], num_kv_heads: int, head_dim: int, scale: float) -> FloatArray:
    """What the key cache of a row begins with, [Hkv * (D + g)] float32."""
    start = np.zeros((num_kv_heads, head_dim + len(sinks) // num_kv_heads), np.float32)
    start[:, head_dim:] = np.reshape(sinks, (num_kv_heads, -1)) / np.float32(scale)
    return start.reshape(-1)


def _padded(nodes: Nodes, x: ir.Value, num_heads: int, head_dim: int, group: int) -> ir.Value:
    """[B, T, heads * D] as [B, T, heads, D + g], zeros added to each head."""
    dtype = x.dtype or ir.DataType.FLOAT
    split = nodes.typed("Reshape", x, nodes.integers([0, 0, num_heads, head_dim]), dtype=dtype)
    return nodes.typed("Pad", split, nodes.integers([0] * 7 + [group]), dtype=dtype)


def _flat(nodes: Nodes, x: ir.Value, like: ir.Value, size: int) -> ir.Value:
    """Heads side by side again, [B, T, size]; like: what they were made of."""
    shape = None if like.shape is None else [*list(like.shape)[:2], size]
    return nodes.typed("Reshape", x, nodes.integers([0, 0, size]), dtype=x.dtype, shape=shape)
