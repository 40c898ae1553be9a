"""Removing Transposes and Reshapes that undo each other, so that heads stay [B, T, heads * size] between operators.

Exporters compute the shapes that they reshape to from the tokens' shape; where the dimensions are seen to be the
input's own, the shape becomes a constant such as [0, 0, heads, size], and what computed it is dead.
"""

from __future__ import annotations

import math

import onnx_ir as ir

from genai.convert.fusions.match import is_op, made_by, only_output
from genai.convert.fusions.sizes import integers, slice_axes
from genai.convert.nodes import Nodes, take_over
from genai.convert.values import constant, rank, size_of


def clean(graph: ir.Graph) -> None:
    """Simplify all Transposes and Reshapes; what is dead afterwards is left for the caller."""
    nodes = Nodes(graph)
    for node in list(graph):
        if is_op(node, ("Transpose",)):
            _join_transposes(node)
        elif is_op(node, ("RMSNormalization",)):
            _norm_before_transpose(node)
        elif is_op(node, ("Reshape",)):
            _fix_shape(nodes, node)
            _skip_reshape_before(node)
            _drop_idle_reshape(node)


def name_heads(graph: ir.Graph) -> bool:
    """Write down how many heads a Reshape to [B, T, -1, size] makes; returns whether anything new is known."""
    changed = False
    for node in graph:
        if not is_op(node, ("Reshape",)):
            continue
        source, result = node.inputs[0], only_output(node)
        if source is None or rank(source) != 3 or rank(result) != 4 or size_of(result, 2) is not None:
            continue
        row, size = size_of(source, -1), size_of(result, -1)
        if row and size and row % size == 0 and source.shape is not None and _counts_heads(node):
            result.shape = ir.Shape([source.shape[0], source.shape[1], row // size, size])
            changed = True
    return changed


def fix_slices(graph: ir.Graph) -> None:
    """Constant bounds for slices whose computed bounds are the same in every run, and the sizes that follow."""
    nodes = Nodes(graph)
    for node in graph:
        if not is_op(node, ("Slice",)):
            continue
        for index, bound in list(enumerate(node.inputs))[1:]:
            numbers = integers(bound)
            if numbers is not None and constant(bound) is None:
                node.replace_input_with(index, nodes.integers(numbers))
        _name_sliced(node)


def _name_sliced(node: ir.Node) -> None:
    source, result, axes = node.inputs[0], only_output(node), slice_axes(node)
    starts, stops = integers(node.inputs[1]), integers(node.inputs[2])
    steps = integers(node.inputs[4]) if len(node.inputs) > 4 else [1] * len(axes or [])
    if source is None or source.shape is None or not (axes and starts and stops and steps):
        return
    dims = list(source.shape)
    for axis, *bounds in zip(axes, starts, stops, steps, strict=False):
        size = size_of(source, axis)
        dims[axis] = ir.SymbolicDim(None) if size is None else len(range(size)[slice(*bounds)])
    result.shape = ir.Shape(dims)


def _counts_heads(node: ir.Node) -> bool:
    """Whether the third dimension of a Reshape's target is the one that remains."""
    shape = made_by(node.inputs[1], "Concat")
    return shape is not None and len(shape.inputs) == 4 and integers(shape.inputs[2]) == [-1]


def _join_transposes(node: ir.Node) -> None:
    """Two Transposes become one, or none."""
    inner = made_by(node.inputs[0], "Transpose")
    if inner is None or "perm" not in inner.attributes or "perm" not in node.attributes:
        return
    first, second = inner.attributes["perm"].as_ints(), node.attributes["perm"].as_ints()
    joined = [first[axis] for axis in second]
    source = inner.inputs[0]
    assert source is not None
    if joined == list(range(len(joined))):
        take_over(only_output(node), source)
    else:
        node.replace_input_with(0, source)
        node.attributes["perm"] = ir.AttrInt64s("perm", joined)


def _norm_before_transpose(node: ir.Node) -> None:
    """A Transpose that leaves the last axis moves behind the normalization of that axis, where it may meet another."""
    transpose = made_by(node.inputs[0], "Transpose")
    perm = transpose.attributes.get("perm") if transpose is not None else None
    source = transpose.inputs[0] if transpose is not None else None
    if perm is None or source is None or node.attributes.get_int("axis", -1) != -1:
        return
    axes, result = list(perm.as_ints()), only_output(node)
    if axes[-1] != len(axes) - 1:
        return
    behind = ir.node("Transpose", [source], {"perm": axes}, name=f"{node.name}/fused.Transpose")
    only_output(behind).shape, only_output(behind).type = result.shape, result.type
    node.append(behind)
    take_over(result, only_output(behind))
    behind.replace_input_with(0, result)
    node.replace_input_with(0, source)
    result.shape = source.shape


def _fix_shape(nodes: Nodes, node: ir.Node) -> None:
    """A constant in place of a computed shape: 0 copies a dimension, -1 is what remains."""
    source, result = node.inputs[0], only_output(node)
    if source is None or result.shape is None or integers(node.inputs[1]) is not None:
        return
    copied = _copied(source, result)
    sizes = [size_of(result, axis) for axis in range(copied, len(result.shape))]
    if sizes.count(None) + sizes.count(0) > 1 or 0 in sizes:
        return
    target = [0] * copied + [-1 if size is None else size for size in sizes]
    node.replace_input_with(1, nodes.integers(target))
    node.attributes.pop("allowzero", None)


def _skip_reshape_before(node: ir.Node) -> None:
    """A Reshape of a Reshape reads the first one's input."""
    source, target = node.inputs[0], integers(node.inputs[1])
    inner = made_by(source, "Reshape")
    origin = inner.inputs[0] if inner is not None else None
    if source is None or origin is None or target is None or _zeros_are_sizes(node):
        return
    zeros = [axis for axis, size in enumerate(target) if size == 0]
    if all(axis < _copied(origin, source) for axis in zeros):
        node.replace_input_with(0, origin)


def _drop_idle_reshape(node: ir.Node) -> None:
    """A Reshape to the shape that its input has."""
    source, target = node.inputs[0], integers(node.inputs[1])
    if source is None or target is None or rank(source) != len(target) or _zeros_are_sizes(node):
        return
    differing = [size for axis, size in enumerate(target) if size not in (0, size_of(source, axis))]
    if differing in ([], [-1]):
        take_over(only_output(node), source)


def _zeros_are_sizes(node: ir.Node) -> bool:
    """Whether a Reshape's zeros are sizes and not copies."""
    return node.attributes.get_int("allowzero", 0) == 1 and 0 in (integers(node.inputs[1]) or [])


def _copied(source: ir.Value, result: ir.Value) -> int:
    """How many leading dimensions of a Reshape's result are its input's."""
    if source.shape is None or result.shape is None:
        return 0
    if {len(source.shape), len(result.shape)} == {3, 4} and _row_size(source, 2) == _row_size(result, 2) is not None:
        return 2  # heads split or joined: batch and length stay, however their sizes were computed
    same = 0
    for before, after in zip(source.shape, result.shape, strict=False):
        if before != after or (isinstance(before, ir.SymbolicDim) and before.value is None):
            break
        same += 1
    return same


def _row_size(value: ir.Value, start: int) -> int | None:
    """Elements in the dimensions from an axis on."""
    sizes = [size_of(value, axis) for axis in range(start, rank(value) or start)]
    known = [size for size in sizes if size is not None]
    return math.prod(known) if len(known) == len(sizes) else None
