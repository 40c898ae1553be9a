"""Integers that a graph computes from shapes: bounds of slices, targets of reshapes, axes.

Tracing exporters write `x.shape[-1] // 2` as Shape, Gather, Div and Unsqueeze. Where the dimension is fixed, so is the
result.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from genai.convert.fusions.match import is_op
from genai.convert.values import constant, rank, size_of

_MAX_DEPTH = 12
_MAX_NUMBERS = 16
_ARITHMETIC: dict[str, Callable[[int, int], int]] = {
    "Add": operator.add,
    "Sub": operator.sub,
    "Mul": operator.mul,
}
_SAME_NUMBERS = ("Unsqueeze", "Squeeze", "Cast", "Identity", "Reshape")


def integers(value: ir.Value | None) -> list[int] | None:
    """A short list of integers, or one, that is the same in every run; None if it is not seen to be."""
    return _Reader().read(value, _MAX_DEPTH)


def axes_of(node: ir.Node) -> list[int] | None:
    """The axes of a reduction or of Squeeze and Unsqueeze: an attribute in older opsets, an input in newer ones."""
    attribute = node.attributes.get("axes")
    if attribute is not None:
        return list(attribute.as_ints())
    return integers(node.inputs[1]) if len(node.inputs) > 1 else None


def slice_axes(node: ir.Node) -> list[int] | None:
    """The axes that a Slice names."""
    return integers(node.inputs[3]) if len(node.inputs) > 3 else None


class _Reader:
    """Follows integers back to constants; what has been read once is known, however many paths lead to it."""

    def __init__(self) -> None:
        self._known: dict[ir.Value, list[int] | None] = {}

    def read(self, value: ir.Value | None, depth: int) -> list[int] | None:
        """A value's numbers, looked for at most so many nodes back."""
        if value is None or value in self._known:
            return None if value is None else self._known[value]
        numbers = self._read(value, depth)
        self._known[value] = numbers if numbers is None or len(numbers) <= _MAX_NUMBERS else None
        return self._known[value]

    def _read(self, value: ir.Value, depth: int) -> list[int] | None:
        array = constant(value)
        if array is not None:
            is_list = array.size <= _MAX_NUMBERS and np.issubdtype(array.dtype, np.integer)
            return [int(number) for number in array.reshape(-1)] if is_list else None
        node = value.producer()
        if node is None or depth == 0:
            return None
        if is_op(node, _SAME_NUMBERS):
            return self.read(node.inputs[0], depth - 1)
        if is_op(node, ("Shape",)):
            return _shape(node)
        if is_op(node, ("Gather",)):
            return self._gathered(node, depth - 1)
        if is_op(node, ("Concat",)):
            parts = [self.read(part, depth - 1) for part in node.inputs]
            return None if None in parts else [number for part in parts if part for number in part]
        return self._computed(node, depth - 1)

    def _gathered(self, node: ir.Node, depth: int) -> list[int] | None:
        """One dimension of a shape, of which the others may be unknown."""
        places, source = self.read(node.inputs[1], depth), node.inputs[0]
        maker = None if source is None else source.producer()
        if places is None or len(places) != 1:
            return None
        if is_op(maker, ("Shape",)) and maker is not None and not maker.attributes and maker.inputs[0] is not None:
            size = size_of(maker.inputs[0], places[0])
            return None if size is None else [size]
        numbers = self.read(source, depth)
        return [numbers[places[0]]] if numbers and -len(numbers) <= places[0] < len(numbers) else None

    def _computed(self, node: ir.Node, depth: int) -> list[int] | None:
        if len(node.inputs) != 2 or not is_op(node, (*_ARITHMETIC, "Div")):
            return None
        left, right = (self.read(operand, depth) for operand in node.inputs)
        if not left or not right or len(left) != 1 or len(right) != 1:
            return None
        if node.op_type in _ARITHMETIC:
            return [_ARITHMETIC[node.op_type](left[0], right[0])]
        # The operator rounds towards zero, Python's // down.
        return [math.trunc(left[0] / right[0])] if right[0] and abs(left[0]) < 1 << 31 else None


def _shape(node: ir.Node) -> list[int] | None:
    source = node.inputs[0]
    dimensions = None if source is None else rank(source)
    if source is None or dimensions is None:
        return None
    axes = range(dimensions)[node.attributes.get_int("start", 0) : node.attributes.get_int("end", dimensions)]
    sizes = [size_of(source, axis) for axis in axes]
    known = [size for size in sizes if size is not None]
    return known if len(known) == len(sizes) else None
