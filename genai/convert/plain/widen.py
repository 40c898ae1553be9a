"""A graph in 16 bits as the same graph in float32: weights, caches and everything between them.

CPUs compute attention in 16 bits five to ten times slower than in 32. Files whose caches are float32 beside weights in
16 bits (casts at every input) are read this way, too.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_ir as ir

from genai.convert.nodes import take_over

_NARROW = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
_FLOAT = ir.DataType.FLOAT
_TYPES = ("to", "dtype", "output_dtype", "softmax_precision", "stash_type")
"""Attributes that name a type."""


def is_narrow(graph: ir.Graph) -> bool:
    """Whether some weight has 16 bits."""
    return any(value.dtype in _NARROW for value in graph.initializers.values())


def is_bfloat(graph: ir.Graph) -> bool:
    """Whether some weight is in bfloat16, for which CPUs have kernels of few operators."""
    return any(value.dtype == ir.DataType.BFLOAT16 for value in graph.initializers.values())


def has_cast_caches(graph: ir.Graph) -> bool:
    """Whether past keys and values are float32 and are rounded to 16 bits before anything reads them."""
    caches = [value for value in graph.inputs if value.shape is not None and len(value.shape) == 4]
    return any(
        value.dtype == _FLOAT and node.op_type == "Cast" and node.attributes.get_int("to", 0) in map(int, _NARROW)
        for value in caches
        for node in value.consumers()
    )


def widen(model: ir.Model) -> None:
    """Turn a graph with parts in 16 bits into one in float32, in place."""
    graph = model.graph
    for place in (graph, *graph.subgraphs(), *(function.graph for function in model.functions.values())):
        for value in place.initializers.values():
            if value.const_value is not None and value.dtype in _NARROW:
                value.const_value = _wide(value.const_value)
    for node in graph.all_nodes():
        for name, attribute in list(node.attributes.items()):
            if (new := _widened(name, attribute)) is not None:
                node.attributes[name] = new
    for value in _values(graph):
        if value.dtype in _NARROW:
            value.dtype = _FLOAT
    for node in [node for node in graph if node.op_type == "Cast"]:
        source = node.inputs[0]
        if source is not None and source.dtype == _FLOAT and node.attributes.get_int("to", 0) == int(_FLOAT):
            take_over(node.outputs[0], source)
            if not node.outputs[0].uses() and not node.outputs[0].is_graph_output():
                graph.remove(node, safe=True)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    for place in (graph, *graph.subgraphs()):
        yield from (*place.inputs, *place.initializers.values())
    for node in graph.all_nodes():
        yield from node.outputs


def _widened(name: str, attribute: ir.Attr) -> ir.Attr | None:
    """An attribute without 16 bits, None where it has none."""
    if attribute.type == ir.AttributeType.INT and name in _TYPES and attribute.as_int() in map(int, _NARROW):
        return ir.AttrInt64(name, int(_FLOAT))
    if attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype in _NARROW:
        return ir.AttrTensor(name, _wide(attribute.as_tensor()))
    return None


def _wide(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """A tensor in float32, read when it is used and not before."""

    def read() -> ir.TensorProtocol:
        return ir.tensor(np.asarray(tensor.numpy(), np.float32), name=tensor.name)

    return ir.LazyTensor(read, dtype=_FLOAT, shape=ir.Shape(list(tensor.shape.numpy())), name=tensor.name)
