"""Products of weights that somebody has rounded, in the form that has fast kernels: MatMulNBits, activations in 8 bits.

MatMul(x, DequantizeLinear(W))    W in 8 bits, a scale each or one for all   ─►  MatMulNBits of the same numbers
MatMulNBits(accuracy_level 0, 1)  as other tools leave it                    ─►  the same with accuracy_level 4

Without that a step of one token takes ten times as long: products in float32 over weights in few bits.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnx_ir.passes.common as passes

from genai.build.graph import CONTRIB
from genai.build.quantize import pack
from genai.build.source import BlockWeight
from genai.convert.nodes import Nodes, store, take_over
from genai.convert.values import constant

_LEVEL = 4
_MIDDLE = 128
"""What stands for 0 in 8 bits where no zero points are stored."""


def make_faster(model: ir.Model) -> list[str]:
    """Rewrite products in place; returns what was done, a line for each kind."""
    graph = model.graph
    exact, levels = _exact_products(graph), _levels(graph)
    graph.sort()
    passes.RemoveUnusedNodesPass()(model)
    if exact:
        model.opset_imports[CONTRIB] = graph.opset_imports[CONTRIB] = 1
    said = f"products {{}}, on activations in 8 bits by blocks (accuracy_level {_LEVEL})"
    kinds = (exact, "with DequantizeLinear became MatMulNBits, their weights unchanged"), (levels, "of MatMulNBits")
    return [f"{count} {said.format(what)}" for count, what in kinds if count]


def _levels(graph: ir.Graph) -> int:
    count = 0
    for node in graph:
        x = node.inputs[0] if node.inputs else None
        is_wide = x is not None and x.dtype in (None, ir.DataType.FLOAT)
        if node.op_type == "MatMulNBits" and is_wide and node.attributes.get_int("accuracy_level", 0) != _LEVEL:
            node.attributes["accuracy_level"] = ir.AttrInt64("accuracy_level", _LEVEL)
            count += 1
    return count


def _exact_products(graph: ir.Graph) -> int:
    nodes, done = Nodes(graph), dict[ir.Value, list[ir.Value] | None]()
    count = 0
    for node in [node for node in graph if node.op_type == "MatMul" and node.domain == ""]:
        x, dense = node.inputs
        if x is None or dense is None or x.dtype != ir.DataType.FLOAT:
            continue
        if dense not in done:
            done[dense] = _packed(graph, dense)
        if (weights := done[dense]) is None:
            continue
        (rows, _, block_size), columns = _sizes(weights[0]), _sizes(dense)[0]
        old = node.outputs[0]
        result = nodes.typed(
            "MatMulNBits", x, *weights, domain=CONTRIB, N=rows, K=columns, bits=8, block_size=block_size,
            accuracy_level=_LEVEL, dtype=old.dtype, shape=old.shape,
        )  # fmt: skip
        take_over(old, result)
        count += 1
    return count


def _sizes(value: ir.Value) -> list[int]:
    return [size for size in value.shape or () if isinstance(size, int)]


def _packed(graph: ir.Graph, dense: ir.Value) -> list[ir.Value] | None:
    """MatMulNBits' initializers for a dequantized weight [K, N]: numbers, scales and, where needed, zero points."""
    node = dense.producer()
    if node is None or node.op_type != "DequantizeLinear" or "block_size" in node.attributes:
        return None
    values, scale = constant(node.inputs[0]), constant(node.inputs[1])
    zero = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    if values is None or scale is None or values.ndim != 2 or values.dtype not in (np.int8, np.uint8):
        return None
    if scale.size not in (1, values.shape[1]) or (scale.size > 1 and node.attributes.get_int("axis", 1) not in (1, -1)):
        return None
    dense.shape = ir.Shape(list(values.shape))
    return _stored(graph, dense.name or "weight", values.T, scale, zero)


def _stored(
    graph: ir.Graph,
    name: str,
    values: npt.NDArray[np.generic],
    scale: npt.NDArray[np.generic],
    zero: npt.NDArray[np.generic] | None,
) -> list[ir.Value]:
    """values: [N, K] int8 or uint8; scale, zero: of each row, or one for all."""
    rows, columns = values.shape
    shift = _MIDDLE if values.dtype == np.int8 else 0
    middle = np.asarray(0 if zero is None else zero, np.int16) + shift
    block_size = 64 if columns % 64 == 0 else 32
    num_blocks = -(-columns // block_size)
    spread = (rows, num_blocks)
    block = BlockWeight(
        values=(values.astype(np.int16) + shift).astype(np.uint8),
        scales=np.broadcast_to(scale.astype(np.float32).reshape(-1, 1), spread).copy(),
        bits=8,
        block_size=block_size,
    )
    data, scales = pack(block)
    arrays: dict[str, npt.NDArray[np.uint8] | npt.NDArray[np.float32]] = {"blocks": data, "scales": scales}
    if (middle != _MIDDLE).any():
        arrays["zero_points"] = np.broadcast_to(middle.astype(np.uint8).reshape(-1, 1), spread).copy()
    return [store(graph, f"{name}.{part}", ir.tensor(array, name=f"{name}.{part}")) for part, array in arrays.items()]
