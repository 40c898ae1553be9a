"""Small graphs as exporters write them, in ONNX's text form, and what they compute."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import onnx.parser
import onnx_ir as ir
from onnx.reference import ReferenceEvaluator

Array = npt.NDArray[np.generic]


def model_of(signature: str, body: str, *, weights: dict[str, Array] | None = None, opset: int = 24) -> ir.Model:
    """A model of one graph: `signature` is "inputs => outputs", `body` its nodes, one a line.

    Nodes are named after their first output; constants are written as `name = 1.5` or `name = [1, 2]`.
    """
    constants = dict(weights or {})
    nodes = []
    for line in filter(None, map(str.strip, body.splitlines())):
        result, expression = line.split(" = ", 1)
        if "(" in expression:
            nodes.append(f"[{result.split(',')[0]}] {result} = {expression}")
        else:
            value = np.array(eval(expression))
            constants[result] = value.astype(np.int64 if value.dtype.kind == "i" else np.float32)
    inputs, outputs = signature.split("=>")
    header = f'<ir_version: 11, opset_import: ["" : {opset}]>'
    text = f"{header} graph ({inputs}) => ({outputs}) {{ {' '.join(nodes)} }}"
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in constants.items())
    onnx.checker.check_model(proto)
    return ir.from_proto(proto)


def run(model: ir.Model, **inputs: Array) -> list[Array]:
    """What a model computes, by ONNX's reference evaluator."""
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    results: list[Array] = ReferenceEvaluator(proto).run(None, inputs)
    return results


def operators(model: ir.Model) -> list[str]:
    """The operators of a graph, in order."""
    return [node.op_type for node in model.graph]


def nodes(model: ir.Model, kind: str) -> list[ir.Node]:
    """The nodes of one operator."""
    return [node for node in model.graph if node.op_type == kind]


def normal(*shape: int, seed: int = 0, dtype: npt.DTypeLike = np.float32) -> Array:
    """Random numbers."""
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)
