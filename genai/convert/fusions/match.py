"""Reading a graph along its values: what a value is made by, who uses it, which constant it is.

A step that does not find what a pattern needs raises `Differs`, which says where and what was found instead.
"""

from __future__ import annotations

import functools
from collections.abc import Collection

import onnx
import onnx_ir as ir

from genai.convert.fusions.report import Mismatch, Site, layer_of
from genai.convert.values import rank


class Differs(Exception):
    """The graph is not what a pattern expects here."""

    def __init__(self, at: ir.Node | ir.Value, expected: str, found: str | None = None) -> None:
        super().__init__()
        node = at.name if isinstance(at, ir.Node) else _origin(at)
        self.mismatch = Mismatch(node=node or "(unnamed)", expected=expected, found=found or described(at))


def described(item: ir.Node | ir.Value | None) -> str:
    """A node's operator, or what a value is, in words for a report."""
    if item is None:
        return "nothing"
    if isinstance(item, ir.Node):
        return item.op_type if item.domain in ("", "ai.onnx") else f"{item.domain}.{item.op_type}"
    node = item.producer()
    if node is not None:
        return described(node)
    kind = "weight" if item.is_initializer() else "graph input"
    return f"the {kind} {item.name}"


def is_op(node: ir.Node | None, kinds: Collection[str]) -> bool:
    """Whether a node is one of these standard operators, and has the inputs that it requires."""
    if node is None or node.domain not in ("", "ai.onnx") or node.op_type not in kinds:
        return False
    required = node.inputs[: _num_required(node.op_type)]
    return len(required) == _num_required(node.op_type) and None not in required and bool(node.outputs)


@functools.cache
def _num_required(kind: str) -> int:
    num_inputs: int = onnx.defs.get_schema(kind).min_input
    return num_inputs


def made_by(value: ir.Value | None, *kinds: str) -> ir.Node | None:
    """The node that makes a value, if it is one of these standard operators."""
    node = None if value is None else value.producer()
    return node if is_op(node, kinds) else None


def producer(value: ir.Value | None, *kinds: str, expected: str = "") -> ir.Node:
    """As `made_by`. Raises: Differs."""
    node = made_by(value, *kinds)
    if node is None:
        assert value is not None, "an input that the operator requires"
        raise Differs(value, expected or " or ".join(kinds))
    return node


def users(value: ir.Value, *kinds: str) -> list[ir.Node]:
    """The nodes of these standard operators that read a value, each once."""
    return [node for node in dict.fromkeys(node for node, _ in value.uses()) if is_op(node, kinds)]


def user(value: ir.Value, *kinds: str, expected: str = "") -> ir.Node:
    """The first node of these operators that reads a value. Raises: Differs."""
    found = users(value, *kinds)
    if found:
        return found[0]
    wanted = expected or " or ".join(kinds)
    others = [described(node) for node, _ in value.uses()]
    made = value.producer()
    raise Differs(made if made is not None else value, f"{wanted} of its result", ", ".join(others) or "no user")


def other_input(node: ir.Node, value: ir.Value) -> ir.Value:
    """The other operand of an operator with two. Raises: Differs."""
    left, right = node.inputs[:2]
    if left is None or right is None:
        raise Differs(node, "two operands")
    return right if left is value else left


def only_output(node: ir.Node) -> ir.Value:
    """The result of a node with one."""
    return node.outputs[0]


def is_last_axis(axis: int, value: ir.Value) -> bool:
    """Whether an axis of this value is its last."""
    dimensions = rank(value)
    return axis == -1 or (dimensions is not None and axis == dimensions - 1)


def site_at(pattern: str, node: ir.Node, mismatch: Mismatch | None = None) -> Site:
    """A site found by a node; its layer by the node's name, by what the exporter noted on it, or by its weights."""
    noted = [text for key, text in node.metadata_props.items() if "scope" in key or "namespace" in key]
    names = [node.name or "", *noted, *(value.name or "" for value in node.inputs if value is not None)]
    layer = next((layer for layer in map(layer_of, names) if layer is not None), None)
    return Site(pattern=pattern, node=node.name or node.op_type, layer=layer, mismatch=mismatch)


def _origin(value: ir.Value) -> str | None:
    node = value.producer()
    return value.name if node is None else node.name
