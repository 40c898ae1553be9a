"""Operators that ONNX Runtime's CPU provider has no kernel for, as docs/operators.md measured the pinned release.

It runs such an operator as the function that the standard defines it by, node by node, or does not load the model.
`genai conformance --package DIR` asks the release that is installed.
"""

from __future__ import annotations

from collections.abc import Mapping

_INLINED = {
    "Attention": (25, "59 to 112"),
    "LinearAttention": (27, "41 to 56"),
    "CausalConvWithState": (27, "8 to 15"),
    "Swish": (24, "4"),
}
"""The opset from which there is no kernel, and how many nodes one becomes."""
_FAILING = {"SwiGLU": 28, "Swish": 25}
"""The opset from which a model with it does not load."""


def without_kernels(operators: Mapping[str, int], opset: int) -> tuple[str, ...]:
    """A line for each of a model's standard operators without a kernel. operators: how many nodes of each kind."""
    lines = []
    for kind, number in operators.items():
        if kind in _FAILING and opset >= _FAILING[kind]:
            lines.append(f"{number} {kind}: does not load at opset {opset}")
        elif kind in _INLINED and opset >= _INLINED[kind][0]:
            lines.append(f"{number} {kind}: no kernel at opset {opset}, inlined into {_INLINED[kind][1]} nodes each")
    return tuple(lines)
