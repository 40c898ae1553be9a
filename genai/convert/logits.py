"""Logits for the chosen positions only: the choice moves from the logits up, through whatever works on each position.

    … ─► residual ─► norm ─► MLP ─► norm ─► head ─► logits        before: T positions everywhere
    … ─► residual ─► GatherND ─► norm ─► MLP ─► norm ─► head ─► logits   after: P of T from here on

A node may move behind the choice if it treats positions one by one and everything that reads it has moved too.
"""

from __future__ import annotations

import onnx_ir as ir

from genai.convert.nodes import Nodes
from genai.convert.values import constant, constant_values, rank

_UNARY = {
    "Cast", "Identity", "Tanh", "Sigmoid", "Relu", "Gelu", "FastGelu", "QuickGelu", "BiasGelu", "Erf", "Neg", "Sqrt",
    "Reciprocal", "Abs", "Exp", "Softplus", "Clip",
}  # fmt: skip
_BINARY = {"Add", "Sub", "Mul", "Div", "Pow", "Min", "Max"}
_NORMS = {
    "RMSNormalization", "LayerNormalization", "SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization",
    "SkipLayerNormalization",
}  # fmt: skip
_PRODUCTS = {"MatMul", "MatMulNBits"}
_LAST_AXIS = {"Split", "Concat", "ReduceMean", "ReduceSum", "ReduceMax", "Softmax"}


def at_logits_positions(graph: ir.Graph, nodes: Nodes, logits: ir.Value, logits_positions: ir.Value) -> ir.Value:
    """`logits` [B, T, V] at the chosen positions, [B, P, V], with as little as possible computed for the others."""
    graph.sort()
    fixed = constant_values(graph)
    moved: set[ir.Node] = set()
    for node in reversed(graph):
        if _is_by_position(node, fixed) and all(_reads_moved(output, moved, logits) for output in node.outputs):
            moved.add(node)
    gather = _Gather(nodes, logits_positions)
    if logits.producer() not in moved:
        return gather(logits)
    for node in [node for node in graph if node in moved]:
        for index, value in enumerate(node.inputs):
            if value is not None and value not in fixed and value.producer() not in moved:
                node.replace_input_with(index, gather(value))
    for node in moved:
        for output in node.outputs:
            output.shape = None if output is not logits else output.shape
    return logits


class _Gather:
    """Chooses positions of a value once, however often it is read."""

    def __init__(self, nodes: Nodes, logits_positions: ir.Value) -> None:
        self._nodes = nodes
        self._positions = logits_positions
        self._indices: ir.Value | None = None
        self._done: dict[ir.Value, ir.Value] = {}

    def __call__(self, value: ir.Value) -> ir.Value:
        """[B, T, N] -> [B, P, N]."""
        if self._indices is None:
            self._indices = self._nodes.op("Unsqueeze", self._positions, self._nodes.integers([2]))
        if value not in self._done:
            shape = None if value.shape is None else [value.shape[0], None, *list(value.shape)[2:]]
            self._done[value] = self._nodes.typed(
                "GatherND", value, self._indices, batch_dims=1, dtype=value.dtype, shape=shape
            )
        return self._done[value]


def _reads_moved(output: ir.Value, moved: set[ir.Node], logits: ir.Value) -> bool:
    """Whether only moved nodes read a value, or it is the logits themselves."""
    if output is logits:
        return not output.uses()
    if output.is_graph_output():
        return False
    return all(use.node in moved for use in output.uses())


def _is_by_position(node: ir.Node, fixed: set[ir.Value]) -> bool:
    """Whether a node's values [B, T, N] keep their positions apart."""
    inputs = [value for value in node.inputs if value is not None]
    flowing = [value for value in inputs if value not in fixed]
    if not flowing or any(value.shape is not None and len(value.shape) != 3 for value in flowing):
        return False
    kind = node.op_type
    if kind in _UNARY:
        return True
    if kind in _BINARY:
        return all(_is_last_only(value) for value in inputs if value in fixed)
    if kind in _PRODUCTS:
        return flowing == inputs[:1] and (kind != "MatMul" or rank(inputs[1]) == 2)
    if kind in _NORMS:
        return node.attributes.get_int("axis", -1) in (-1, 2) and all(value in (inputs[:2]) for value in flowing)
    if kind in _LAST_AXIS:
        return _works_on_last_axis(node, fixed)
    return False


def _works_on_last_axis(node: ir.Node, fixed: set[ir.Value]) -> bool:
    if node.op_type.startswith("Reduce"):
        axes = constant(node.inputs[1]) if len(node.inputs) > 1 else None
        keeps = node.attributes.get_int("keepdims", 1) == 1
        return keeps and axes is not None and axes.tolist() in ([-1], [2])
    default = 0 if node.op_type == "Split" else -1
    has_fixed_sizes = node.op_type != "Split" or all(value in fixed for value in node.inputs[1:] if value is not None)
    return has_fixed_sizes and node.attributes.get_int("axis", default) in (-1, 2)


def _is_last_only(value: ir.Value) -> bool:
    """Whether a constant broadcasts over batch and positions."""
    if value.shape is None:
        return False
    return all(size == 1 for size in list(value.shape)[:-1])
