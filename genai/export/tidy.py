"""A traced graph put into its final form: weights as products read them, names of the checkpoint, operators fused."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
import onnxscript.optimizer

from genai import contract
from genai.convert.fusions import FusionReport, fuse
from genai.convert.nodes import store
from genai.convert.normalize import normalize

_FOLDED_ELEMENTS = 1024
"""Constants up to this size are computed beforehand; larger results would be copies of weights."""


def tidy(model: ir.Model) -> FusionReport:
    """Rewrite a traced model in place; returns what was fused."""
    _transpose_weights(model.graph)
    onnxscript.optimizer.optimize(model, input_size_limit=_FOLDED_ELEMENTS, output_size_limit=_FOLDED_ELEMENTS)
    normalize(model)
    report = fuse(model)
    _name_dimensions(model.graph)
    model.ir_version = contract.IR_VERSION
    passes.ClearMetadataAndDocStringPass()(model)
    return report


def _transpose_weights(graph: ir.Graph) -> None:
    """Weights that are only read transposed are stored so, each transposed when it is written.

    One that is also read as it is (an embedding that is the head, too) is stored once and transposed by the runtime.
    """
    for node in [node for node in graph if node.op_type == "Transpose"]:
        weight = node.inputs[0]
        if weight is None or not weight.is_initializer() or len(weight.uses()) != 1 or weight.const_value is None:
            continue
        stored = _transposed(graph, weight, node.attributes["perm"].as_ints())
        node.outputs[0].replace_all_uses_with(stored)
        graph.remove(node, safe=True)


def _transposed(graph: ir.Graph, weight: ir.Value, axes: tuple[int, ...] | list[int]) -> ir.Value:
    tensor = weight.const_value
    assert tensor is not None
    assert weight.dtype is not None
    name, shape = f"{weight.name}.transposed", ir.Shape([tensor.shape.numpy()[axis] for axis in axes])

    def compute() -> ir.TensorProtocol:
        return ir.tensor(np.ascontiguousarray(np.transpose(tensor.numpy(), axes)), dtype=tensor.dtype, name=name)

    return store(graph, name, ir.LazyTensor(compute, dtype=tensor.dtype, shape=shape, name=name))


def _name_dimensions(graph: ir.Graph) -> None:
    """One name for one dimension in all inputs and outputs."""
    for value in (*graph.inputs, *graph.outputs):
        if value.shape is None:
            continue
        name = value.name or ""
        if name == "attention_mask":
            value.shape = ir.Shape(["batch", "past + length"])
        elif name.startswith("present."):
            value.shape = ir.Shape(["batch", value.shape[1], "past + length", value.shape[3]])
