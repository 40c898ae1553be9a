"""Asking what is known of a graph's values before it runs: sizes and constants."""

from __future__ import annotations

import onnx_ir as ir

from genai.build.graph import Array

_MAX_CONSTANT = 1 << 26
"""Elements of the largest constant that is read: a rotary table of 2^19 positions and 128 columns."""


def rank(value: ir.Value) -> int | None:
    """The number of dimensions, where it is known."""
    if value.shape is not None:
        return len(value.shape)
    tensor = value.const_value
    return None if tensor is None else len(tensor.shape)


def size_of(value: ir.Value, axis: int) -> int | None:
    """A dimension's size, where it is known and the same in every run."""
    if value.shape is None or not -len(value.shape) <= axis < len(value.shape):
        return None
    size = value.shape[axis]
    return size if isinstance(size, int) else None


def constant(value: ir.Value | None) -> Array | None:
    """A value that does not depend on the inputs, if it is stored: a weight or a `Constant` node's."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None or tensor.size > _MAX_CONSTANT:
        return None
    try:
        array: Array = tensor.numpy()
    except (OSError, ValueError):
        return None  # external data that is not there: what it holds is not known
    return array


def scalar(value: ir.Value | None) -> float | None:
    """A constant of one element."""
    array = constant(value)
    return float(array.reshape(-1)[0]) if array is not None and array.size == 1 else None


def constant_values(graph: ir.Graph) -> set[ir.Value]:
    """All values that depend on initializers and constants alone."""
    found = set(graph.initializers.values())
    for node in graph:
        if node.op_type != "RandomNormal" and all(value is None or value in found for value in node.inputs):
            found.update(node.outputs)
    return found


def is_plain_gemm(node: ir.Node) -> bool:
    """Whether a Gemm is a product and a sum, without factors; its weight may be transposed."""
    attributes = node.attributes
    factors = attributes.get_float("alpha", 1.0), attributes.get_float("beta", 1.0)
    return factors == (1.0, 1.0) and not attributes.get_int("transA", 0)
