"""Heads side by side in the last dimension, [B, T, heads * D], without the transposes that exporters write.

x [B, T, H*D] ─► Reshape [B, T, H, D] ─► (norm) ─► Transpose ─► RotaryEmbedding ─► [B, H, T, D]
becomes
x [B, T, H*D] ─► (Reshape, norm, Reshape) ─► RotaryEmbedding(num_heads=H) ─► [B, T, H*D]
"""

from __future__ import annotations

import onnx_ir as ir

from genai.convert.nodes import Nodes
from genai.convert.values import size_of


def as_flat(nodes: Nodes, x: ir.Value, size: int) -> ir.Value:
    """[B, heads, T, D] -> [B, T, heads * D]; size: heads * D."""
    node = x.producer()
    if node is not None and node.domain == "":
        if node.op_type == "Transpose" and list(node.attributes.get_ints("perm", ())) == [0, 2, 1, 3]:
            return _joined(nodes, _given(node, 0), size)
        if node.op_type == "RotaryEmbedding" and (num_heads := size_of(x, 1)) is not None:
            return _rotated(nodes, node, size, num_heads)
    return _joined(nodes, nodes.op("Transpose", x, perm=[0, 2, 1, 3]), size)


def _rotated(nodes: Nodes, node: ir.Node, size: int, num_heads: int) -> ir.Value:
    attributes = node.attributes
    return nodes.op(
        "RotaryEmbedding", as_flat(nodes, _given(node, 0), size), *node.inputs[1:], num_heads=num_heads,
        interleaved=attributes.get_int("interleaved", None), domain=node.domain,
        rotary_embedding_dim=attributes.get_int("rotary_embedding_dim", None),
    )  # fmt: skip


def _joined(nodes: Nodes, x: ir.Value, size: int) -> ir.Value:
    """[B, T, heads, D] -> [B, T, heads * D]: what it was split from, where it was split just before."""
    node = x.producer()
    if node is not None and node.op_type == "Reshape":
        source = _given(node, 0)
        if source.shape is not None and len(source.shape) == 3 and source.shape[2] == size:
            return source
    return nodes.op("Reshape", x, nodes.integers([0, 0, size]))


def _given(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    if value is None:
        raise ValueError(f"{node.op_type} {node.name} lacks its input {index}")
    return value
