"""Models of opset 25 and newer as what opset 24 says: packages stay there, since runtimes have no kernels beyond it.

    SwiGLU(a, b)                  ─►  Mul(a · sigmoid(alpha · a), b)      also Swish, at any opset
    Attention(left_window_size)   stays, and its window is read as one of `config.json` is
    LinearAttention               stays, as CausalConvWithState does, for `recurrent.py`

Attributes and operators that opset 24 has not are refused; what changed otherwise are types that operators take.
"""

from __future__ import annotations

import onnx
import onnx_ir as ir
from onnx import defs

from genai import contract
from genai.convert import recurrent
from genai.convert.nodes import Nodes, take_over
from genai.convert.normalize import infer_shapes, inline
from genai.errors import UnsupportedModelError

NEWEST = 28
WINDOWS = ("left_window_size", "right_window_size")
"""Attributes of Attention-25 that whoever reads attention understands."""
_GATES = ("SwiGLU", "Swish")


def write_out_gates(model: ir.Model) -> int:
    """Write SwiGLU and Swish with Sigmoid and Mul, in place; returns how many were. A runtime need not load them.

    Raises: UnsupportedModelError where functions have them that cannot be inlined.
    """
    inner_nodes = (node for body in model.functions.values() for node in body)
    if any(node.op_type in _GATES and node.domain == "" for node in inner_nodes):
        inline(model)
    nodes, count = Nodes(graph := model.graph), 0
    for node in [node for node in graph if node.op_type in _GATES and node.domain == ""]:
        gate, old = node.inputs[0], node.outputs[0]
        if gate is None:
            continue
        alpha = node.attributes.get_float("alpha", 1.0)
        with nodes.before(node):
            inner = gate
            if alpha != 1.0:
                factor = nodes.constant(alpha, (gate.dtype or ir.DataType.FLOAT).numpy())
                inner = nodes.typed("Mul", gate, factor, dtype=gate.dtype, shape=gate.shape)
            sigmoid = nodes.typed("Sigmoid", inner, dtype=gate.dtype, shape=gate.shape)
            result = nodes.typed("Mul", gate, sigmoid, dtype=old.dtype, shape=old.shape)
            if node.op_type == "SwiGLU":
                result = nodes.typed("Mul", result, node.inputs[1], dtype=old.dtype, shape=old.shape)
        take_over(old, result)
        graph.remove(node, safe=True)
        count += 1
    return count


def lower_opset(model: ir.Model) -> int | None:
    """Give a model of a newer opset that of packages, in place; returns the one that it had, None if none had to be.

    Raises: UnsupportedModelError for what opset 24 does not have.
    """
    opset = model.opset_imports.get("", 0)
    if opset <= contract.OPSET:
        return None
    if opset > NEWEST:
        raise UnsupportedModelError(
            f"the model uses opset {opset}; opsets up to {NEWEST} are known: export it with "
            f"opset_version={contract.OPSET}"
        )
    if any(map(recurrent.is_recurrent, model.graph)):
        infer_shapes(model)  # later they are operators of no opset, of which nothing is known
    for node in [*model.graph.all_nodes(), *(node for body in model.functions.values() for node in body)]:
        if node.domain == "":
            _check(node, opset)
    bodies = (model.graph, *(function.graph for function in model.functions.values()))
    for imports in (model.opset_imports, *(body.opset_imports for body in bodies)):
        imports[""] = min(imports.get("", opset), contract.OPSET)
    return opset


def _check(node: ir.Node, opset: int) -> None:
    """Whether opset 24 has an operator and its attributes."""
    if node.op_type in recurrent.OPERATORS:
        return
    try:
        known = defs.get_schema(node.op_type, contract.OPSET, "").attributes
    except onnx.defs.SchemaError:
        raise UnsupportedModelError(
            f"{node.name} is {node.op_type} of opset {opset}, which opset {contract.OPSET} does not have: export the "
            f"model with opset_version={contract.OPSET}"
        ) from None
    allowed = {*known, *(WINDOWS if node.op_type == "Attention" else ())}
    if unknown := sorted(node.attributes.keys() - allowed):
        raise UnsupportedModelError(
            f"{node.name} ({node.op_type}, opset {opset}) has the attribute {unknown[0]}, which opset "
            f"{contract.OPSET} does not have: export the model with opset_version={contract.OPSET}"
        )
