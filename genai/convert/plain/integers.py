"""Products of integers, as onnxruntime's dynamic quantization writes them, as products with dequantized weights.

    x ─► DynamicQuantizeLinear ─► MatMulInteger(W) ─► Cast ─► Mul(x's scale · W's scale)
    x ─► MatMul(DequantizeLinear(W))

Activations are then no longer rounded to 8 bits by one scale for the whole step, which made each token's logits depend
on those beside it.
"""

from __future__ import annotations

import onnx_ir as ir

from genai.convert.nodes import Nodes, take_over
from genai.convert.values import constant_values, size_of


def dequantize_products(graph: ir.Graph) -> int:
    """Replace products of integers by products with dequantized weights, in place; returns how many were."""
    nodes, fixed = Nodes(graph), constant_values(graph)
    count = 0
    for node in [node for node in graph if node.op_type == "MatMulInteger" and node.domain == ""]:
        if (found := _site(node, fixed)) is None:
            continue
        x, scale, result = found
        weight, zero = node.inputs[1], node.inputs[3] if len(node.inputs) > 3 else None
        assert weight is not None
        with nodes.before(node):
            axis = 1 if (size_of(scale, -1) or 1) > 1 else None
            dense = nodes.typed(
                "DequantizeLinear", weight, scale, zero, axis=axis, dtype=ir.DataType.FLOAT, shape=weight.shape
            )
            product = nodes.typed("MatMul", x, dense, dtype=ir.DataType.FLOAT, shape=result.shape)
        take_over(result, product)
        count += 1
    return count


def _site(node: ir.Node, fixed: set[ir.Value]) -> tuple[ir.Value, ir.Value, ir.Value] | None:
    """(what is multiplied, the weight's scale, the product) of a dynamically quantized product; None if it is none."""
    source = node.inputs[0].producer() if node.inputs[0] is not None else None
    if source is None or source.op_type != "DynamicQuantizeLinear" or node.inputs[1] not in fixed:
        return None
    if len(node.inputs) < 3 or node.inputs[2] is not source.outputs[2]:  # other numbers than x stands for
        return None
    cast = _only_user(node.outputs[0], "Cast")
    product = None if cast is None else _only_user(cast.outputs[0], "Mul")
    if cast is None or product is None:
        return None
    scales = next((value for value in product.inputs if value is not cast.outputs[0]), None)
    both = None if scales is None else scales.producer()
    if both is None or both.op_type != "Mul" or source.outputs[1] not in both.inputs:
        return None
    scale = next((value for value in both.inputs if value is not source.outputs[1]), None)
    x = source.inputs[0]
    if scale not in fixed or scale is None or x is None or not _is_of_one_form(node, scale):
        return None
    return x, scale, product.outputs[0]


def _is_of_one_form(node: ir.Node, scale: ir.Value) -> bool:
    """Whether scale and zero point are both of each column, or both of all: DequantizeLinear takes no others."""
    zero = node.inputs[3] if len(node.inputs) > 3 else None
    return zero is None or (zero.shape is not None and zero.shape == scale.shape)


def _only_user(value: ir.Value, kind: str) -> ir.Node | None:
    users = list(value.consumers())
    return users[0] if len(users) == 1 and users[0].op_type == kind and not value.is_graph_output() else None
