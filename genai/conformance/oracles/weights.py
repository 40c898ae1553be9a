"""Weights of few bits in NumPy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from genai.conformance.oracles.node import Floats, Node, unpacked


def matmul_nbits(node: Node) -> Mapping[str, Floats]:
    """A times the weights that are meant, and a bias. `g_idx` says what the order of columns says anyway."""
    bits, depth = node.integer("bits"), node.integer("K")
    weight = unpacked(node.given["B"], bits).astype(np.float64)
    num_blocks = weight.shape[1]
    points = node.given.get("zero_points")
    if points is None:
        zeros = np.full(weight.shape[:2], 2.0 ** (bits - 1))
    elif points.dtype == np.uint8:
        zeros = unpacked(points, bits)[:, :num_blocks].astype(np.float64)
    else:
        zeros = node.floats("zero_points")
    dense = ((weight - zeros[..., None]) * node.floats("scales")[..., None]).reshape(weight.shape[0], -1)[:, :depth]
    result = node.floats("A") @ dense.T
    return {"output": result + node.floats("bias") if node.has("bias") else result}


def gather_blocks(node: Node) -> Mapping[str, Floats]:
    """Rows of a table [V, N]; bytes hold several numbers, whose zero is in the middle."""
    bits, block = node.integer("bits"), node.integer("block_size")
    is_packed = node.types["data"] == "uint8"
    table, scales = node.given["data"], node.floats("scales")
    values = np.asarray(unpacked(table, bits) if is_packed else table, np.float64)
    if node.has("zero_points"):
        points = node.given["zero_points"]
        zeros = np.asarray(unpacked(points, bits)[:, : scales.shape[1]] if is_packed else points, np.float64)
    else:
        zeros = np.full(scales.shape, 2.0 ** (bits - 1) if is_packed else 0.0)
    whole = (values - np.repeat(zeros, block, axis=1)) * np.repeat(scales, block, axis=1)
    return {"output": whole[node.integers("indices")]}
