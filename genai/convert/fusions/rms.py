"""RMSNormalization from its parts.

    x ─► [Cast f32] ─┬─► square ─► ReduceMean ─► + epsilon ─► Sqrt, Reciprocal ─► × ─► [Cast back] ─► × scale
                     └────────────────────────────────────────────────────────────┘

The square is Pow or Mul; the root is Sqrt with Reciprocal or Div, or Pow with -0.5; operands stand in either order. A
scale may be a weight or computed from one (1 + weight); without a scale the operator gets ones.
Operator: https://onnx.ai/onnx/operators/onnx__RMSNormalization.html
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from genai.convert.fusions.match import (
    Differs,
    is_last_axis,
    is_op,
    made_by,
    only_output,
    other_input,
    user,
    users,
)
from genai.convert.fusions.sizes import axes_of
from genai.convert.nodes import Nodes, take_over
from genai.convert.values import rank, scalar, size_of

PATTERN = "RMSNormalization"

_HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


@dataclass(frozen=True, slots=True, kw_only=True)
class RmsMatch:
    """A normalization: its input, its scale (None: no scale), and the value that the operator's result replaces."""

    x: ir.Value
    scale: ir.Value | None
    epsilon: float
    result: ir.Value


def is_anchor(node: ir.Node) -> bool:
    """Whether a normalization may begin here: a mean of squares, but not of deviations from a mean."""
    if not is_op(node, ("ReduceMean",)):
        return False
    squared = _squared(node.inputs[0])
    centred = made_by(squared, "Sub")
    return squared is not None and (centred is None or made_by(centred.inputs[1], "ReduceMean") is None)


def match(mean: ir.Node) -> RmsMatch:
    """The normalization around an anchor. Raises: Differs."""
    x = _squared(mean.inputs[0])
    assert x is not None, "an anchor"
    _check_reduction(mean)
    total = user(only_output(mean), "Add", expected="the addition of epsilon")
    epsilon = scalar(other_input(total, only_output(mean)))
    if epsilon is None:
        raise Differs(total, "a constant epsilon", "a computed one")
    normalized = _normalized(x, total)
    return _scaled(x, normalized, epsilon)


def fuse(nodes: Nodes, mean: ir.Node) -> None:
    """Put the operator in place of the normalization around an anchor, whose parts are dead then. Raises: Differs."""
    found = match(mean)
    last = found.result.producer()
    assert last is not None
    with nodes.before(last):
        result = nodes.typed(
            PATTERN, found.x, found.scale or _ones(nodes, found.x), axis=-1, epsilon=found.epsilon,
            stash_type=int(ir.DataType.FLOAT), dtype=found.result.dtype, shape=found.result.shape,
        )  # fmt: skip
    take_over(found.result, result)


def _squared(value: ir.Value | None) -> ir.Value | None:
    node = made_by(value, "Pow", "Mul")
    if node is None or (node.op_type == "Pow" and scalar(node.inputs[1]) != 2.0):
        return None
    if node.op_type == "Mul" and node.inputs[0] is not node.inputs[1]:
        return None
    return node.inputs[0]


def _check_reduction(mean: ir.Node) -> None:
    axes = axes_of(mean)
    if axes is None or len(axes) != 1 or not is_last_axis(axes[0], only_output(mean)):
        raise Differs(mean, "a mean over the last axis", f"axes {axes}" if axes is not None else "computed axes")
    if mean.attributes.get_int("keepdims", 1) != 1:
        raise Differs(mean, "keepdims=1", "keepdims=0")


def _normalized(x: ir.Value, total: ir.Node) -> ir.Value:
    """x times the reciprocal root of the mean."""
    root = user(only_output(total), "Sqrt", "Pow", expected="the root")
    value = only_output(root)
    exponent = 0.5 if root.op_type == "Sqrt" else scalar(root.inputs[1])
    if exponent == 0.5:
        divided = user(value, "Reciprocal", "Div")
        if divided.op_type == "Div" and divided.inputs[0] is x:
            return only_output(divided)
        if divided.op_type == "Div" and scalar(divided.inputs[0]) != 1.0:
            assert divided.inputs[0] is not None
            raise Differs(divided, "x or 1 divided by the root", f"{_name(divided.inputs[0])} divided by it")
        value = only_output(divided)
    elif exponent != -0.5:
        raise Differs(
            root, "a power of 0.5 or -0.5", "a computed power" if exponent is None else f"a power of {exponent:g}"
        )
    product = user(value, "Mul", expected="x times the reciprocal root")
    factor = other_input(product, value)
    if factor is not x:
        raise Differs(product, f"{_name(x)}, whose squares were averaged, times the reciprocal root", _name(factor))
    return only_output(product)


def _scaled(x: ir.Value, normalized: ir.Value, epsilon: float) -> RmsMatch:
    """The scale behind a normalized value, and which casts the operator takes over.

    With a Cast to 16 bits before the scale, both Casts are the operator's own; behind the scale they stay outside.
    """
    widened = made_by(x, "Cast")
    original = widened.inputs[0] if widened is not None else None
    narrowed = next(iter(users(normalized, "Cast")), None) if len(normalized.uses()) == 1 else None
    if (
        original is not None
        and narrowed is not None
        and original.dtype in _HALVES
        and narrowed.attributes.get_int("to", 0) == original.dtype
        and x.dtype in (None, ir.DataType.FLOAT)
    ):
        x, normalized = original, only_output(narrowed)
    for product in users(normalized, "Mul") if len(normalized.uses()) == 1 else []:
        factor = other_input(product, normalized)
        if rank(factor) == 1 and size_of(factor, 0) != 1:
            return RmsMatch(x=x, scale=factor, epsilon=epsilon, result=only_output(product))
    if size_of(x, -1) is None:
        made = normalized.producer()
        assert made is not None
        raise Differs(made, "a scale with one dimension, or a last dimension of known size", _users(normalized))
    return RmsMatch(x=x, scale=None, epsilon=epsilon, result=normalized)


def _ones(nodes: Nodes, x: ir.Value) -> ir.Value:
    size = size_of(x, -1)
    assert size is not None, "checked when it matched"
    return nodes.constant(np.ones(size), np.float32 if x.dtype is None else x.dtype.numpy())


def _users(value: ir.Value) -> str:
    return ", ".join(node.op_type for node, _ in value.uses()) or "a graph output"


def _name(value: ir.Value) -> str:
    return value.name or "(unnamed)"
