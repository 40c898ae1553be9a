"""Products in the form that later passes and runtimes like best.

Reshape [B*T, K] ─► Gemm(W, bias) ─► Reshape [B, T, N]     becomes     MatMul(x, W) ─► + bias
MatMul(x, Transpose(W)), W read elsewhere, too             becomes     Reshape ─► Gemm(W, transB) ─► Reshape
"""

from __future__ import annotations

import onnx_ir as ir

from genai.convert.fusions.match import is_op, made_by, only_output, users
from genai.convert.nodes import Nodes, take_over
from genai.convert.values import is_plain_gemm, rank, size_of


def unflatten_products(graph: ir.Graph) -> None:
    """Products of rows that were flattened for Gemm work on [B, T, K] again."""
    nodes = Nodes(graph)
    for node in list(graph):
        if is_op(node, ("Gemm",)) and is_plain_gemm(node) and not node.attributes.get_int("transB", 0):
            with nodes.before(node):
                _unflatten(nodes, node)


def _unflatten(nodes: Nodes, node: ir.Node) -> None:
    flat, weight = node.inputs[:2]
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    before, after = made_by(flat, "Reshape"), users(only_output(node), "Reshape")
    source = before.inputs[0] if before is not None else None
    if source is None or weight is None or len(after) != 1 or len(only_output(node).uses()) != 1:
        return
    result = only_output(after[0])
    if rank(source) != 3 or not _keeps_rows(source, result, weight) or (bias is not None and rank(bias) != 1):
        return
    product = nodes.typed("MatMul", source, weight, dtype=source.dtype, shape=result.shape)
    if bias is not None:
        product = nodes.typed("Add", product, bias, dtype=source.dtype, shape=result.shape)
    take_over(result, product)


def _keeps_rows(source: ir.Value, result: ir.Value, weight: ir.Value) -> bool:
    """Whether [B, T, K] became [B, T, N]."""
    if source.shape is None or result.shape is None or rank(result) != 3:
        return False
    if (size_of(source, -1), size_of(result, -1)) != (size_of(weight, 0), size_of(weight, 1)):
        return False
    leading = list(zip(source.shape[:2], result.shape[:2], strict=True))
    return size_of(weight, 0) is not None and all(
        before == after and not (isinstance(before, ir.SymbolicDim) and before.value is None)
        for before, after in leading
    )
