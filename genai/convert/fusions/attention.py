"""Where a graph attends: `Attention` operators, and softmaxes between two matrix products.

    q ─► MatMul(q, kᵀ) ─► scale, cap, mask ─► Softmax ─► MatMul(·, v) ─►      or   Attention(q, k, v, mask)

Only the two ends are matched here; what stands between them, and between the caches and the operands, is told by what
it computes (`scores.py`).
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass

import onnx_ir as ir

from genai.convert.fusions.match import site_at
from genai.convert.fusions.report import Mismatch, Site

PATTERN = "Attention"
_PASSED = frozenset({"Cast", "Dropout", "Identity", "Where", "Reshape"})
_ARITHMETIC = frozenset({"Add", "Div", "Mul", "Pow", "Sub"})


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSite:
    """One attention.

    q, k, v: its operands, past included in k and v; raw: the products of queries and keys, and scores: what the softmax
    reads (None of both where an operator does it); mask: an operator's mask; past: the operator's own cache inputs and
    outputs; weights: the softmax's output and what the values are multiplied by, where something stands between;
    result: [B, H, T, D], or [B, T, H * D] if `is_flat`.
    """

    node: ir.Node
    q: ir.Value
    k: ir.Value
    v: ir.Value
    raw: ir.Value | None = None
    scores: ir.Value | None = None
    mask: ir.Value | None = None
    weights: tuple[ir.Value, ir.Value] | None = None
    result: ir.Value
    is_flat: bool = False

    @property
    def name(self) -> str:
        """The node's name."""
        return self.node.name or self.node.op_type


def attention_sites(graph: ir.Graph) -> tuple[list[AttentionSite], list[Site]]:
    """The attentions of a graph in order, and the softmaxes that looked like one and are none, with the reason."""
    found: list[AttentionSite] = []
    missed: list[Site] = []
    flowing = token_dependent(graph)
    for node in graph:
        if node.op_type == "Attention" and node.domain == "":
            found.append(_operator(node))
        elif node.op_type == "Softmax" and node.domain == "":
            site = _softmax(node, flowing)
            if isinstance(site, AttentionSite):
                found.append(site)
            else:
                missed.append(site)
    return found, missed


def token_dependent(graph: ir.Graph) -> set[ir.Value]:
    """Values that depend on what the tokens are, or on keys and values, not only on how many there are."""
    seeds = [
        value
        for value in graph.inputs
        if value.name == "input_ids" or (value.shape is not None and len(value.shape) >= 3)
    ]
    found = set(seeds)
    for node in graph:
        if node.op_type not in ("Shape", "Size") and any(value in found for value in node.inputs if value is not None):
            found.update(node.outputs)
    return found


def _operator(node: ir.Node) -> AttentionSite:
    q, k, v, mask = (*node.inputs[:4], None)[:4]
    if q is None or k is None or v is None:
        raise ValueError(f"{node.name} has no queries, keys or values")
    is_flat = node.attributes.get_int("q_num_heads", 0) > 0
    return AttentionSite(node=node, q=q, k=k, v=v, mask=mask, result=node.outputs[0], is_flat=is_flat)


def _softmax(node: ir.Node, flowing: set[ir.Value]) -> AttentionSite | Site:
    # A factor on weights may stand there: what does is looked at (`scores.py`).
    after = product_after(node.outputs[0]) or product_after(node.outputs[0], _PASSED | _ARITHMETIC)
    if after is None:
        return _missed(node, "a MatMul with the values after the softmax", _consumers(node.outputs[0]))
    scores = node.inputs[0]
    before = None if scores is None else _product_before(scores, flowing)
    if scores is None or before is None:
        return _missed(node, "a MatMul of queries and keys before the softmax", _producer(scores))
    q, k, v = before.inputs[0], before.inputs[1], after.inputs[1]
    if q is None or k is None or v is None:
        raise ValueError(f"{node.name} stands between products without operands")
    used = after.inputs[0]
    return AttentionSite(
        node=node,
        q=q,
        k=k,
        v=v,
        raw=before.outputs[0],
        scores=scores,
        weights=None if used is None or used is node.outputs[0] else (node.outputs[0], used),
        result=after.outputs[0],
    )


def product_after(value: ir.Value, passing: Set[str] = _PASSED) -> ir.Node | None:
    """The product that weights the values, behind casts and guards against rows without any key."""
    passed: set[ir.Node] = set()
    todo = [value]
    while todo:
        for node, index in todo.pop().uses():
            if node.op_type == "MatMul" and index == 0:
                return node
            if node.op_type in passing and node not in passed:
                passed.add(node)
                todo += node.outputs
    return None


def _product_before(value: ir.Value, flowing: set[ir.Value]) -> ir.Node | None:
    """The one product whose result becomes the scores: the ways up along what depends on the tokens all lead to it."""
    found: set[ir.Node] = set()
    seen: set[ir.Value] = set()
    todo = [value]
    while todo:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        node = value.producer()
        if node is None:
            return None
        sources = [source for source in node.inputs if source is not None and source in flowing]
        if node.op_type == "MatMul" and len(sources) == 2:
            found.add(node)
        else:
            todo += sources
    return found.pop() if len(found) == 1 else None


def _missed(node: ir.Node, expected: str, found: str) -> Site:
    return site_at(PATTERN, node, Mismatch(node=node.name or node.op_type, expected=expected, found=found))


def _consumers(value: ir.Value) -> str:
    return ", ".join(sorted({user.op_type for user in value.consumers()})) or "nothing"


def _producer(value: ir.Value | None) -> str:
    node = None if value is None else value.producer()
    return "an input" if node is None else node.op_type
