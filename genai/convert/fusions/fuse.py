"""Fusing a graph's decomposed normalizations and rotations in place."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import onnx_ir as ir
import onnx_ir.passes.common as passes

from genai.convert.fusions import attention, rms, rotary
from genai.convert.fusions.layout import clean, fix_slices, name_heads
from genai.convert.fusions.match import Differs, is_op, made_by, only_output, site_at
from genai.convert.fusions.products import unflatten_products
from genai.convert.fusions.report import FusionReport, Site
from genai.convert.nodes import Nodes
from genai.convert.normalize import refine_shapes

PATTERNS = (rms.PATTERN, rotary.PATTERN, attention.PATTERN)

_OPERATORS = {
    "RMSNormalization": rms.PATTERN,
    "SimplifiedLayerNormalization": rms.PATTERN,
    "SkipSimplifiedLayerNormalization": rms.PATTERN,
    "RotaryEmbedding": rotary.PATTERN,
    "Attention": attention.PATTERN,
    "GroupQueryAttention": attention.PATTERN,
    "MultiHeadAttention": attention.PATTERN,
}
_BEFORE_SOFTMAX = ("Add", "Where", "Mul", "Div", "Cast", "Tanh", "Sub", "Reshape")


def fuse(model: ir.Model) -> FusionReport:
    """Fuse RMSNormalization and RotaryEmbedding in place, and tidy the layout of heads around them.

    model: as `genai.convert.normalize.normalize` leaves it. Attention in parts is reported, not changed: what becomes
    of it depends on where its keys come from and what its mask hides, which the conversion finds out.
    """
    graph, nodes = model.graph, Nodes(model.graph)
    present = [site for node in graph if (site := _present(node)) is not None]
    sites = _fuse_all(graph, rms.PATTERN, rms.is_anchor, lambda anchor: rms.fuse(nodes, anchor))
    if name_heads(graph):
        refine_shapes(model)
    fix_slices(graph)
    sites += _fuse_all(graph, rotary.PATTERN, rotary.is_anchor, rotary.RotaryFusion(nodes).fuse)
    sites += [site_at(attention.PATTERN, node) for node in graph if _attends(node)]
    passes.RemoveUnusedNodesPass()(model)
    clean(graph)
    unflatten_products(graph)
    passes.RemoveUnusedNodesPass()(model)
    graph.sort()
    return FusionReport(patterns=PATTERNS, sites=(*present, *sites))


def _fuse_all(
    graph: ir.Graph, pattern: str, is_anchor: Callable[[ir.Node], bool], fuse_at: Callable[[ir.Node], None]
) -> list[Site]:
    sites = []
    for node in [node for node in graph if is_anchor(node)]:
        mismatch = None
        try:
            fuse_at(node)
        except Differs as difference:
            mismatch = difference.mismatch
        sites.append(site_at(pattern, node, mismatch))
    return sites


def _present(node: ir.Node) -> Site | None:
    pattern = _OPERATORS.get(node.op_type)
    if pattern is None:
        return None
    return replace(site_at(pattern, node), is_present=True)


def _attends(node: ir.Node) -> bool:
    """Whether a node is the softmax between the product of queries and keys and that with the values."""
    if not is_op(node, ("Softmax",)):
        return False
    value = node.inputs[0]
    while (maker := made_by(value, *_BEFORE_SOFTMAX)) is not None:
        operands = [operand for operand in maker.inputs if made_by(operand, "MatMul", *_BEFORE_SOFTMAX) is not None]
        value = operands[0] if operands else None
    return made_by(value, "MatMul") is not None and attention.product_after(only_output(node)) is not None
