"""Norms, positions and activations of ONNX Runtime in NumPy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from genai.conformance.oracles.node import Floats, Node, rms_normed, rotated, sigmoid


def skip_rms_norm(node: Node) -> Mapping[str, Floats]:
    """The norm of a sum by the root of its squares, and the sum."""
    total = _summed(node)
    normed = rms_normed(total, node.number("epsilon", 1e-12)) * node.floats("gamma")
    return {"output": normed, "input_skip_bias_sum": total}


def skip_layer_norm(node: Node) -> Mapping[str, Floats]:
    """The norm of a sum that is centred first, and the sum."""
    total = _summed(node)
    centred = total - total.mean(-1, keepdims=True)
    normed = rms_normed(centred, node.number("epsilon", 1e-12)) * node.floats("gamma")
    return {"output": normed + node.floats("beta") if node.has("beta") else normed, "input_skip_bias_sum": total}


def _summed(node: Node) -> Floats:
    total = node.floats("input") + node.floats("skip")
    return total + node.floats("bias") if node.has("bias") else total


def gated_rms_norm(node: Node) -> Mapping[str, Floats]:
    """Each head's norm, times its gate's activation."""
    x, scale, gate = node.floats("X"), node.floats("scale"), node.floats("gate")
    heads = x.reshape(*x.shape[:2], -1, len(scale))
    normed = (rms_normed(heads, node.number("epsilon", 1e-5)) * scale).reshape(x.shape)
    is_silu = node.text("activation", "silu") in ("silu", "swish")
    return {"output": normed * (gate * sigmoid(gate) if is_silu else sigmoid(gate))}


def rotary(node: Node) -> Mapping[str, Floats]:
    """[B, T, H * D] or [B, H, T, D], turned by positions, or from a first one on."""
    x, places = node.floats("input"), node.integers("position_ids")
    size = 8  # of a head
    heads = x.reshape(*x.shape[:2], -1, size).swapaxes(1, 2) if x.ndim == 3 else x
    if places.ndim == 1:
        places = np.broadcast_to(places[0] + np.arange(heads.shape[2]), (len(x), heads.shape[2]))
    cos, sin = (node.floats(f"{name}_cache")[places][:, None] for name in ("cos", "sin"))
    turned = rotated(heads, cos, sin, is_interleaved=bool(node.integer("interleaved")))
    return {"output": turned.swapaxes(1, 2).reshape(x.shape) if x.ndim == 3 else turned}


def quick_gelu(node: Node) -> Mapping[str, Floats]:
    """x · sigmoid(alpha · x)."""
    x = node.floats("X")
    return {"output": x * sigmoid(node.number("alpha", 1.702) * x)}


def fast_gelu(node: Node) -> Mapping[str, Floats]:
    """Gelu by tanh, of an input and its bias."""
    x = node.floats("X") + (node.floats("bias") if node.has("bias") else 0.0)
    return {"output": 0.5 * x * (1 + np.tanh(0.797885 * x + 0.035677 * x**3))}


def swiglu(node: Node) -> Mapping[str, Floats]:
    """gate · sigmoid(alpha · gate) · (up + beta), both within a limit if there is one."""
    gate = node.floats("gate")
    gate, up = (gate, node.floats("up")) if node.has("up") else np.split(gate, 2, axis=-1)
    limit = node.number("limit", 0.0)
    if limit > 0:
        gate, up = np.minimum(gate, limit), np.clip(up, -limit, limit)
    alpha, beta = node.number("activation_alpha", 1.0), node.number("activation_beta", 0.0)
    return {"output": gate * sigmoid(alpha * gate) * (up + beta)}
