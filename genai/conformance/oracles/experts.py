"""Mixtures of experts in NumPy."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from genai.conformance.oracles.node import Floats, Node, sigmoid, unpacked

_JITTER = 0.01
"""Of the sparse mixer: logits further below the best than twice this part do not count."""


def experts(node: Node) -> Mapping[str, Floats]:
    """MoE and QMoE: each token through its best experts, by its shares."""
    shape = node.given["input"].shape
    x = node.floats("input").reshape(-1, shape[-1])
    inner, outer, third = (_weights(node, name) for name in ("fc1", "fc2", "fc3"))
    assert inner is not None
    assert outer is not None
    output = np.zeros_like(x)
    for token in range(len(x)):
        for expert, share in _chosen(node, token):
            middle = inner[expert] @ x[token] + _of_bias(node, "fc1", expert)
            up = None if third is None else third[expert] @ x[token] + _of_bias(node, "fc3", expert)
            output[token] += share * (outer[expert] @ _activated(node, middle, up) + _of_bias(node, "fc2", expert))
    return {"output": output.reshape(shape)}


def _chosen(node: Node, token: int) -> list[tuple[int, float]]:
    logits = node.floats("router_probs")[token]
    if node.integer("use_sparse_mixer"):
        return _sparsely_chosen(logits)
    best = np.argsort(-logits)[: node.integer("k", 1)]
    if node.has("router_weights"):
        shares = node.floats("router_weights")[token]
    else:
        shares = np.exp(logits - logits.max())
        shares = shares / shares.sum()
    total = shares[best].sum() if node.integer("normalize_routing_weights") else 1.0
    return [(int(expert), float(shares[expert] / total)) for expert in best]


def _sparsely_chosen(logits: Floats) -> list[tuple[int, float]]:
    """The best, and the best of the others, each with its part among those near it (arXiv 2310.00811)."""
    chosen: list[tuple[int, float]] = []
    left = logits.copy()
    for _ in range(2):
        best = int(np.argmax(left))
        is_far = (left[best] - logits) / np.maximum(np.abs(logits), left[best]) > 2 * _JITTER
        near = np.where(is_far, -np.inf, left)
        chosen.append((best, float(1 / np.exp(near - left[best]).sum())))
        left[best] = -np.inf
    return chosen


def _activated(node: Node, x: Floats, up: Floats | None) -> Floats:
    kind = node.text("activation_type", "relu")
    if kind == "swiglu":
        return _swiglu(node, *_halves(node, x, up))
    if kind == "relu":
        return np.maximum(x, 0)
    if kind == "gelu":
        return np.asarray(0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))), np.float64)
    return x * sigmoid(x) if kind == "silu" else x


def _halves(node: Node, x: Floats, up: Floats | None) -> tuple[Floats, Floats]:
    if up is not None:
        return x, up
    if node.integer("swiglu_fusion") == 1:
        return x[0::2], x[1::2]
    gate, up = np.split(x, 2)
    return gate, up


def _swiglu(node: Node, gate: Floats, up: Floats) -> Floats:
    limit, alpha = node.number("swiglu_limit", np.inf), node.number("activation_alpha", 1.0)
    up = np.clip(up, -limit, limit) + node.number("activation_beta", 0.0)
    if node.integer("swiglu_limit_after_activation"):
        return np.minimum(gate * sigmoid(alpha * gate), limit) * up
    gate = np.minimum(gate, limit)
    return gate * sigmoid(alpha * gate) * up


def _of_bias(node: Node, name: str, expert: int) -> Floats | float:
    return node.floats(f"{name}_experts_bias")[expert] if node.has(f"{name}_experts_bias") else 0.0


def _weights(node: Node, name: str) -> Floats | None:
    """[E, out, in]."""
    if not node.has(f"{name}_experts_weights"):
        return None
    if "expert_weight_bits" not in node.attributes:
        return node.floats(f"{name}_experts_weights")
    bits = node.integer(f"{name}_expert_weight_bits", node.integer("expert_weight_bits"))
    values = unpacked(node.given[f"{name}_experts_weights"], bits).astype(np.float64)
    scales = node.floats(f"{name}_scales")
    scales = scales.reshape(*values.shape[:2], -1)
    zeros = np.full(scales.shape, 2.0 ** (bits - 1))
    if node.has(f"{name}_zero_points"):
        points = unpacked(node.given[f"{name}_zero_points"], bits).astype(np.float64)
        zeros = points[:, : values.shape[1], None] if points.ndim == 2 else points[:, :, : scales.shape[2]]
    size = values.shape[2] // scales.shape[2]
    return np.asarray((values - np.repeat(zeros, size, axis=2)) * np.repeat(scales, size, axis=2), np.float64)


def group_router(node: Node) -> Mapping[str, Floats]:
    """Scores by sigmoid; the best experts of the best groups, by logarithms, or the scores of all."""
    logits, bias = node.floats("logits"), node.floats("expert_bias")
    if node.has("projection_weight"):
        logits = logits @ node.floats("projection_weight").T
    scores = sigmoid(logits)
    biased = scores + bias
    probs = np.full(scores.shape, node.number("router_sentinel", 0.0))
    groups = biased.reshape(len(biased), node.integer("n_group", 1), -1)
    best_of_each = np.sort(groups, axis=2)[:, :, -node.integer("group_topk", 1) :].sum(2)
    for token in range(len(scores)):
        kept = np.argsort(-best_of_each[token])[: node.integer("topk_group", 1)]
        allowed = np.full(groups.shape[1:], -np.inf)
        allowed[kept] = groups[token, kept]
        best = np.argsort(-allowed.reshape(-1))[: node.integer("top_k")]
        probs[token, best] = np.log(np.maximum(scores[token, best], 1e-20))
    return {"router_probs": probs, "selection_scores": biased, "router_weights": scores}
