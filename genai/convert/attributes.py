"""Whether a node has only attributes that whoever reads it knows of: an unknown one would change what it computes."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import onnx_ir as ir

from genai.errors import UnsupportedModelError

Allowed = Mapping[str, Collection[int | float | str]]
"""Attributes' values that are understood: that change nothing, or are read."""


def check_attributes(node: ir.Node, read: Collection[str], allowed: Allowed) -> None:
    """Refuse attributes that are not read, and values that are not allowed.

    read: those of which any value is. Raises: UnsupportedModelError that names the attribute.
    """
    for name, attribute in node.attributes.items():
        if name in read:
            continue
        if name not in allowed:
            raise UnsupportedModelError(f"{node.name} ({node.op_type}) has the attribute {name}: not supported")
        if attribute.value not in allowed[name]:
            raise UnsupportedModelError(f"{node.name} ({node.op_type}) has {name}={attribute.value}: not supported")
