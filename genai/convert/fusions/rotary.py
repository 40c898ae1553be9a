"""RotaryEmbedding from its parts.

    x ─┬──────────────────────────────────────────► × cos ─┐
       └─► second half ─► Neg ─┐                            + ─► y
       └─► first half ─────────┴─► Concat ─► × sin ────────┘

The halves are Slices or a Split; in the interleaved form they are every second number, and the Concat is of columns
that a Reshape flattens. Only a part of each head may be rotated; the rest is then concatenated behind it. x is
[B, heads, T, size], or [B, T, heads, size]; the operator gets it as [B, T, heads * size].
Operator: https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from genai.convert.fusions.angles import Angles
from genai.convert.fusions.match import (
    Differs,
    described,
    is_last_axis,
    is_op,
    made_by,
    only_output,
    other_input,
    producer,
    user,
    users,
)
from genai.convert.fusions.sizes import axes_of, integers, slice_axes
from genai.convert.nodes import Dims, Nodes, take_over
from genai.convert.values import rank, size_of

PATTERN = "RotaryEmbedding"


@dataclass(frozen=True, slots=True, kw_only=True)
class RotaryMatch:
    """A rotation.

    x: what is rotated, whole heads; heads_axis: 1 for [B, heads, T, size], 2 for [B, T, heads, size];
    rotated_size: how much of each head is rotated, 0: all of it; cos, sin: as they are multiplied, [B or 1, 1, T, size]
    or [B or 1, T, 1, size]; result: the value that the operator's result replaces.
    """

    x: ir.Value
    heads_axis: int
    num_heads: int
    head_size: int
    rotated_size: int
    interleaved: bool
    cos: ir.Value
    sin: ir.Value
    result: ir.Value


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """The numbers start, start + step, … before stop on the last axis of a value; stop None: to its end."""

    of: ir.Value
    start: int
    stop: int | None
    step: int = 1


class RotaryFusion:
    """Fuses the rotations of a graph, whose layers share cosines and sines."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes
        self._halves = Angles(pairs=False)
        self._pairs = Angles(pairs=True)
        self._tables: dict[tuple[ir.Value, int], ir.Value] = {}

    def fuse(self, concat: ir.Node) -> None:
        """Put the operator in place of the rotation around an anchor. Raises: Differs, with nothing replaced."""
        found = match(concat)
        angles = self._pairs if found.interleaved else self._halves
        halves = [angles.half(_without_heads(value, found.heads_axis)) for value in (found.cos, found.sin)]
        last = found.result.producer()
        assert last is not None
        with self._nodes.before(last):
            cos, sin = (self._table(half, found) for half in halves)
            _replace(self._nodes, found, cos, sin)

    def _table(self, half: ir.Value, found: RotaryMatch) -> ir.Value:
        """Cosines or sines [B, T, size / 2] from their half, which may have an axis of heads or a single row."""
        key, nodes = (half, found.heads_axis), self._nodes
        if key not in self._tables:
            table = half
            if rank(half) == 4:
                shape = list(_dims_of(half, 4))
                del shape[found.heads_axis]
                axes = nodes.integers([found.heads_axis])
                table = nodes.typed("Squeeze", half, axes, dtype=half.dtype, shape=shape)
            self._tables[key] = _for_all_rows(nodes, table, found.x)
        return self._tables[key]


def is_anchor(node: ir.Node) -> bool:
    """Whether a rotation may begin here: the negated part of a value, concatenated with another part."""
    if not is_op(node, ("Concat",)) or len(node.inputs) != 2:
        return False
    negated = made_by(_flat(node.inputs[0]), "Neg")
    return negated is not None and made_by(negated.inputs[0], "Slice", "Split") is not None


def match(concat: ir.Node) -> RotaryMatch:
    """The rotation around an anchor. Raises: Differs."""
    if not is_last_axis(concat.attributes.get_int("axis", 0), only_output(concat)):
        raise Differs(concat, "a Concat along the last axis", f"axis {concat.attributes.get_int('axis', 0)}")
    interleaved = _flat(concat.inputs[0]) is not concat.inputs[0]
    x, size = _swapped(concat, interleaved)
    rotated = only_output(concat)
    if interleaved:
        rotated = only_output(user(rotated, "Reshape", expected="the flattening Reshape"))
    by_sin = user(rotated, "Mul", expected="the product with the sines")
    total = user(only_output(by_sin), "Add", expected="the sum of both products")
    by_cos = producer(other_input(total, only_output(by_sin)), "Mul", expected="the product with the cosines")
    if x not in by_cos.inputs:
        raise Differs(by_cos, f"{x.name}, whose halves are swapped, times the cosines", "another value")
    cos, sin = other_input(by_cos, x), other_input(by_sin, rotated)
    axis = _heads_axis(cos)
    whole, result = _whole(x, size, only_output(total))
    num_heads, head_size = size_of(whole, axis), size_of(whole, -1)
    if num_heads is None or head_size is None or rank(whole) != 4:
        raise Differs(whole, "four dimensions with a known number and size of heads", f"shape {whole.shape}")
    return RotaryMatch(
        x=whole, heads_axis=axis, num_heads=num_heads, head_size=head_size,
        rotated_size=0 if size == head_size else size, interleaved=interleaved, cos=cos, sin=sin, result=result,
    )  # fmt: skip


def _replace(nodes: Nodes, found: RotaryMatch, cos: ir.Value, sin: ir.Value) -> None:
    heads, size, dtype = found.num_heads, found.head_size, found.x.dtype
    dims = _dims_of(found.x, 4)
    batch, length = dims[0], dims[2 if found.heads_axis == 1 else 1]
    flat, split = [batch, length, heads * size], [batch, length, heads, size]
    x = found.x
    if found.heads_axis == 1:
        x = nodes.typed("Transpose", x, perm=[0, 2, 1, 3], dtype=dtype, shape=split)
    x = nodes.typed("Reshape", x, nodes.integers([0, 0, heads * size]), dtype=dtype, shape=flat)
    x = nodes.typed(
        PATTERN, x, cos, sin, num_heads=heads, interleaved=int(found.interleaved),
        rotary_embedding_dim=found.rotated_size, dtype=dtype, shape=flat,
    )  # fmt: skip
    x = nodes.typed("Reshape", x, nodes.integers([0, 0, heads, size]), dtype=dtype, shape=split)
    if found.heads_axis == 1:
        x = nodes.typed("Transpose", x, perm=[0, 2, 1, 3], dtype=dtype, shape=dims)
    take_over(found.result, x)


def _flat(value: ir.Value | None) -> ir.Value | None:
    """A value without the last axis that the interleaved form gives it."""
    column = made_by(value, "Unsqueeze")
    if column is None:
        return value
    axes = axes_of(column)
    return column.inputs[0] if axes and is_last_axis(axes[0], only_output(column)) else value


def _swapped(concat: ir.Node, interleaved: bool) -> tuple[ir.Value, int]:
    """What the two concatenated parts are of, and its last dimension."""
    second = _part(producer(_flat(concat.inputs[0]), "Neg").inputs[0])
    first = _part(_flat(concat.inputs[1]))
    x = first.of
    if second.of is not x:
        raise Differs(concat, "two parts of one value", f"parts of {x.name} and of {second.of.name}")
    size = size_of(x, -1) or second.stop
    if size is None:
        raise Differs(x, "a last dimension of known size", f"shape {x.shape}")
    step, start = (2, 1) if interleaved else (1, size // 2)
    wanted = [(0, size if interleaved else start, step), (start, size, step)]
    found = [(part.start, size if part.stop is None else min(part.stop, size), part.step) for part in (first, second)]
    # Every second number from 0 ends before the last one, wherever the slice stops.
    if found != wanted and not (interleaved and [(a, c) for a, _, c in found] == [(0, 2), (1, 2)]):
        raise Differs(concat, f"the halves of {size} numbers", " and ".join(f"{a}:{b}:{c}" for a, b, c in found))
    return x, size


def _part(value: ir.Value | None) -> _Part:
    node = producer(value, "Slice", "Split")
    source = node.inputs[0]
    assert source is not None
    if node.op_type == "Split":
        return _split_part(node, source, value)
    axes = slice_axes(node)
    steps = [1] if len(node.inputs) < 5 or node.inputs[4] is None else integers(node.inputs[4])
    starts, stops = integers(node.inputs[1]), integers(node.inputs[2])
    if not (axes and steps and starts and stops) or len(axes) != 1:
        raise Differs(node, "a slice of one axis with constant bounds", "computed bounds, or several axes")
    if not is_last_axis(axes[0], source):
        raise Differs(node, "a slice of the last axis", f"axis {axes[0]} of shape {source.shape}")
    size = size_of(source, -1)
    bounds = [size + number if number < 0 and size is not None else number for number in (starts[0], stops[0])]
    if min(bounds) < 0:
        raise Differs(node, "a last dimension of known size, as the bounds count from its end", f"shape {source.shape}")
    return _Part(of=source, start=bounds[0], stop=bounds[1] if bounds[1] < 1 << 31 else None, step=steps[0])


def _split_part(node: ir.Node, source: ir.Value, value: ir.Value | None) -> _Part:
    if not is_last_axis(node.attributes.get_int("axis", 0), source):
        raise Differs(node, "a Split of the last axis", f"axis {node.attributes.get_int('axis', 0)}")
    sizes = integers(node.inputs[1]) if len(node.inputs) > 1 else None
    size = size_of(source, -1)
    if sizes is None and size is not None and size % len(node.outputs) == 0:
        sizes = [size // len(node.outputs)] * len(node.outputs)
    if sizes is None:
        raise Differs(node, "a Split of constant sizes", "computed ones")
    place = list(node.outputs).index(value) if value is not None else 0
    return _Part(of=source, start=sum(sizes[:place]), stop=sum(sizes[: place + 1]))


def _whole(x: ir.Value, size: int, result: ir.Value) -> tuple[ir.Value, ir.Value]:
    """The heads whose first part x is, and the result with their rest behind it; both as given where x is all."""
    part = _part_if_any(x)
    if part is None or part.start or part.step != 1:
        return x, result
    for joined in users(result, "Concat"):
        if len(joined.inputs) != 2 or joined.inputs[0] is not result:
            continue
        rest = _part_if_any(joined.inputs[1])
        if rest is None or rest.of is not part.of or (rest.start, rest.step) != (size, 1):
            continue
        if rest.stop is None or rest.stop == size_of(rest.of, -1):
            return part.of, only_output(joined)
    return x, result


def _part_if_any(value: ir.Value | None) -> _Part | None:
    try:
        return _part(value)
    except Differs:
        return None


def _heads_axis(cos: ir.Value) -> int:
    """Where cosines have a single head: axis 1 or 2 of four."""
    node = made_by(cos, "Unsqueeze")
    axes = axes_of(node) if node is not None else None
    if axes is not None and len(axes) == 1 and axes[0] % 4 in (1, 2):
        return axes[0] % 4
    single = [axis for axis in (1, 2) if size_of(cos, axis) == 1]
    if rank(cos) != 4 or not single:
        raise Differs(cos, "cosines with one head on axis 1 or 2", f"{described(cos)} of shape {cos.shape}")
    return single[0]


def _without_heads(value: ir.Value, axis: int) -> ir.Value:
    """The value before its axis of heads was added; the value itself where that cannot be seen."""
    node = made_by(value, "Unsqueeze")
    axes = axes_of(node) if node is not None else None
    source = node.inputs[0] if node is not None else None
    return source if source is not None and axes is not None and [a % 4 for a in axes] == [axis] else value


def _for_all_rows(nodes: Nodes, table: ir.Value, x: ir.Value) -> ir.Value:
    """A table [1 or B, T, size / 2] with a row for each of x: the operator does not broadcast."""
    dims, rows = _dims_of(table, 3), _dims_of(x, 4)[0]
    if dims[0] == rows and rows is not None and not (isinstance(rows, ir.SymbolicDim) and rows.value is None):
        return table
    batch = nodes.typed("Shape", x, start=0, end=1, dtype=ir.DataType.INT64, shape=[1])
    shape = nodes.typed("Concat", batch, nodes.integers([1, 1]), axis=0, dtype=ir.DataType.INT64, shape=[3])
    return nodes.typed("Expand", table, shape, dtype=table.dtype, shape=[rows, *dims[1:]])


def _dims_of(value: ir.Value, count: int) -> Dims:
    """The dimensions of a value with this many; those that are not known are None."""
    return [None] * count if value.shape is None or len(value.shape) != count else list(value.shape)
