"""Half of a rotary table: what RotaryEmbedding wants from cosines and sines that are written out for both halves.

Exporters compute `cos(concat(f, f))`; the operator takes `cos(f)`. The half is found by following the value back to
where its halves are told to be equal (a Concat of one value with itself, or a stored table) and repeating the steps
between. With pairs (interleaved rotation) every number stands twice in a row instead of the whole repeating.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from genai.build.graph import Array
from genai.convert.fusions.match import Differs, described, is_last_axis, is_op, made_by, only_output
from genai.convert.fusions.sizes import axes_of, integers, slice_axes
from genai.convert.nodes import store
from genai.convert.values import constant, rank, scalar

_MAX_STEPS = 24
_ELEMENTWISE = ("Cos", "Sin", "Cast", "Identity")
_SCALED = ("Mul", "Div")
_MOVED = ("Unsqueeze", "Squeeze", "Gather", "Slice", "Expand")


class Angles:
    """Halves of rotary tables, each written once for all layers."""

    def __init__(self, *, pairs: bool) -> None:
        self._pairs = pairs
        self._suffix = "even" if pairs else "half"
        self._known: dict[ir.Value, ir.Value] = {}

    def half(self, value: ir.Value) -> ir.Value:
        """The value that repeats within this one along the last axis, written behind it in the graph.

        Raises: Differs, with nothing written.
        """
        steps = self._steps(value)
        start = steps[-1]
        if start not in self._known:
            self._known[start] = self._repeated(start) or self._stored(start)
        for wide in reversed(steps[:-1]):
            if wide not in self._known:
                self._known[wide] = self._again(wide)
        return self._known[value]

    def _steps(self, value: ir.Value) -> list[ir.Value]:
        """The value, what it is computed from, and so on to one whose half is known."""
        steps = [value]
        while steps[-1] not in self._known and self._repeated(steps[-1]) is None:
            wide = steps[-1]
            if self._table(wide) is not None:
                break
            source = _source(wide)
            if source is None or len(steps) > _MAX_STEPS:
                raise Differs(wide, "cosines and sines whose halves are seen to be equal", described(wide))
            steps.append(source)
        return steps

    def _repeated(self, value: ir.Value) -> ir.Value | None:
        return _paired(value) if self._pairs else _concatenated(value)

    def _table(self, value: ir.Value) -> Array | None:
        """A stored table's half, if its halves are equal."""
        table = constant(value)
        if table is None or table.ndim == 0 or table.shape[-1] % 2:
            return None
        size = table.shape[-1] // 2
        first, second = (table[..., ::2], table[..., 1::2]) if self._pairs else (table[..., :size], table[..., size:])
        return np.ascontiguousarray(first) if np.array_equal(first, second) else None

    def _stored(self, value: ir.Value) -> ir.Value:
        table = self._table(value)
        assert table is not None
        assert value.graph is not None
        name = f"{value.name}_{self._suffix}"
        return store(value.graph, name, ir.tensor(table, name=name))

    def _again(self, wide: ir.Value) -> ir.Value:
        """The step that made a value, repeated on the half of its source."""
        node = wide.producer()
        source = _source(wide)
        assert node is not None
        assert source is not None
        inputs = [self._known[source] if value is source else value for value in node.inputs]
        copy = ir.node(node.op_type, inputs, attributes=dict(node.attributes), name=f"{node.name}_{self._suffix}")
        half = only_output(copy)
        half.type = wide.type
        if wide.shape is not None and isinstance(wide.shape[-1], int):
            half.shape = ir.Shape([*wide.shape[:-1], wide.shape[-1] // 2])
        node.append(copy)
        return half


def _source(value: ir.Value) -> ir.Value | None:
    """What a value is computed from, if the step between treats every column of the last axis alike."""
    node = value.producer()
    if node is None:
        return None
    if is_op(node, _ELEMENTWISE):
        return node.inputs[0]
    if is_op(node, _SCALED) and scalar(node.inputs[1]) is not None:
        return node.inputs[0]
    if is_op(node, ("Mul",)) and scalar(node.inputs[0]) is not None:
        return node.inputs[1]
    return node.inputs[0] if is_op(node, _MOVED) and _keeps_last_axis(node) else None


def _keeps_last_axis(node: ir.Node) -> bool:
    source = node.inputs[0]
    assert source is not None
    if node.op_type == "Expand":
        sizes = integers(node.inputs[1])
        return sizes is not None and sizes[-1:] == [1]
    if node.op_type == "Gather":
        return node.attributes.get_int("axis", 0) == 0 and (rank(source) or 0) > 1
    axes = slice_axes(node) if node.op_type == "Slice" else axes_of(node)
    dimensions = rank(only_output(node) if node.op_type == "Unsqueeze" else source)
    if axes is None or not dimensions:
        return False
    return all(axis % dimensions != dimensions - 1 for axis in axes)


def _concatenated(value: ir.Value) -> ir.Value | None:
    """f of concat(f, f)."""
    node = made_by(value, "Concat")
    if node is None or len(node.inputs) != 2 or node.inputs[0] is not node.inputs[1]:
        return None
    return node.inputs[0] if is_last_axis(node.attributes.get_int("axis", 0), value) else None


def _paired(value: ir.Value) -> ir.Value | None:
    """f of f[..., None] written twice and flattened: each number stands twice in a row."""
    node = made_by(value, "Reshape")
    node = made_by(node.inputs[0], "Concat", "Expand") if node is not None else None
    if node is None:
        return None
    if node.op_type == "Expand":
        sizes = integers(node.inputs[1])
        if sizes is None or sizes[-1:] != [2]:
            return None
    elif len(node.inputs) != 2 or node.inputs[0] is not node.inputs[1]:
        return None
    column = made_by(node.inputs[0], "Unsqueeze")
    if column is None or axes_of(column) is None or not is_last_axis((axes_of(column) or [0])[0], column.outputs[0]):
        return None
    return column.inputs[0]
