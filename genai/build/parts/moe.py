"""The mixture of experts: a router in standard operators, then one operator for all experts.

    x ─► gate ─► logits ─► choice, shares ─► MoE (floats) or QMoE (integers) ─► [..., H]

Both operators choose the `top_k` largest of what they are given for each token, and share the result out by its
softmax; QMoE on CPU always over the chosen ones, MoE and CUDA's over all, unless `normalize_routing_weights`. Routers
that work so give their logits; others give the logarithm of each chosen score and a very small number elsewhere, whose
softmax is the chosen scores divided by their sum, and multiply the result by that sum if it was not to be divided by.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from genai.build.experts import StoredExperts, store_experts
from genai.build.graph import CONTRIB
from genai.build.parts.context import F32, Context, scaled
from genai.build.spec import MoeSpec
from genai.build.weights import ACCURACY_LEVEL

_NEVER = -1e4
"""A logit of experts that are not chosen: its exponential is 0 beside any other, and float16 holds it."""
_LEAST = 1e-20
"""What a score counts at least, so that it has a logarithm."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Routing:
    """What the operator is told, float32, for each token and expert [..., E].

    choice: logits; shares: what QMoE multiplies the chosen by, None for the softmax of their logits; is_normalised:
    the softmax is over the chosen; factor: what the result is to be multiplied by, [..., 1], or None.
    """

    choice: str
    shares: str | None = None
    is_normalised: bool = True
    factor: str | None = None


def finish(ctx: Context, moe: MoeSpec, x: str, layer: int) -> str:
    """Each token through its experts: [..., H] -> [..., H]."""
    graph, weights, hidden = ctx.graph, ctx.weights, ctx.spec.hidden_size
    prefix = f"model.layers.{layer}.{moe.name}"
    logits = graph.cast(weights.float_linear(x, f"{prefix}.gate", moe.num_experts, hidden), ctx.dtype, F32)
    if moe.router.multiplies == "input":
        x = graph.op("Mul", x, graph.cast(_only_score(ctx, logits), F32, ctx.dtype))
        routing = _Routing(choice=logits)
    else:
        routing = _routed(ctx, moe, logits, prefix)
    experts = store_experts(weights, moe, prefix, hidden)
    result = _through_experts(ctx, moe, x, routing, experts)
    if routing.factor is not None:
        return graph.op("Mul", result, graph.cast(routing.factor, F32, ctx.dtype))
    return scaled(graph, result, moe.router.scale, ctx.dtype)


def _through_experts(ctx: Context, moe: MoeSpec, x: str, routing: _Routing, experts: StoredExperts) -> str:
    graph, form = ctx.graph, experts.form
    choice, shares = (value and _flat(ctx, moe, value) for value in (routing.choice, routing.shares))
    (inner, inner_scales, inner_bias), (outer, outer_scales, outer_bias) = experts.inner, experts.outer
    if form is None:
        return graph.op(
            "MoE", x, choice, inner, inner_bias, outer, outer_bias, domain=CONTRIB,
            k=moe.top_k, activation_type="swiglu", swiglu_fusion=1, activation_alpha=moe.alpha,
            activation_beta=moe.beta, swiglu_limit=moe.limit, normalize_routing_weights=int(routing.is_normalised),
        )  # fmt: skip
    given = [choice, inner, inner_scales, inner_bias, outer, outer_scales, outer_bias]
    return graph.op(
        "QMoE", x, *given, *([*[None] * 6, shares] if shares else []), domain=CONTRIB,
        k=moe.top_k, activation_type="swiglu", swiglu_fusion=1, activation_alpha=moe.alpha,
        activation_beta=moe.beta, swiglu_limit=moe.limit, normalize_routing_weights=int(routing.is_normalised),
        expert_weight_bits=form.bits, block_size=form.block_size, weights_prepacked=0,
        accuracy_level=ACCURACY_LEVEL if ctx.dtype == F32 else None,
    )  # fmt: skip


def _flat(ctx: Context, moe: MoeSpec, value: str) -> str:
    """[..., E] float32 -> [tokens, E] in the activations' type, as the operators take it."""
    flat = ctx.graph.op("Reshape", value, ctx.graph.constant([-1, moe.num_experts], np.int64))
    return ctx.graph.cast(flat, F32, ctx.dtype)


def _routed(ctx: Context, moe: MoeSpec, logits: str, prefix: str) -> _Routing:
    """The routing by a router's specification; logits: [..., E] float32."""
    graph, router = ctx.graph, moe.router
    if router.score == "sparse_mixer":
        return _sparse_mixed(ctx, moe, logits)
    is_plain = not router.has_correction and router.groups == 1
    if router.score == "softmax" and is_plain:
        shares = None if router.is_normalised else graph.op("Softmax", logits, axis=-1)
        return _Routing(choice=logits, shares=shares, is_normalised=router.is_normalised)
    scores = graph.op("Softmax", logits, axis=-1) if router.score == "softmax" else graph.op("Sigmoid", logits)
    choice = scores
    if router.has_correction:
        name = f"{prefix}.gate.e_score_correction_bias"
        choice = graph.op("Add", scores, ctx.weights.vector(name, moe.num_experts, F32))
    if router.groups > 1:
        choice = _in_kept_groups(ctx, moe, choice)
    best, places = graph.ops("TopK", choice, graph.constant([moe.top_k], np.int64), num_outputs=2, axis=-1)
    least = graph.op("ReduceMin", best, graph.constant([-1], np.int64), keepdims=1)
    is_chosen = graph.op("GreaterOrEqual", choice, least)
    factor = None
    if not router.is_normalised:
        chosen = graph.op("GatherElements", scores, places, axis=-1)
        factor = scaled(graph, _sum(ctx, chosen), router.scale, F32)
    return _Routing(choice=_logarithms(ctx, scores, is_chosen), factor=factor)


def _logarithms(ctx: Context, scores: str, is_chosen: str) -> str:
    graph = ctx.graph
    logarithms = graph.op("Log", graph.op("Max", scores, graph.constant(_LEAST, F32)))
    return graph.op("Where", is_chosen, logarithms, graph.constant(_NEVER, F32))


def _in_kept_groups(ctx: Context, moe: MoeSpec, choice: str) -> str:
    """The scores for the choice [..., E], with those of groups that are not kept far below all others."""
    graph, router, last = ctx.graph, moe.router, ctx.graph.constant([-1], np.int64)
    size = moe.num_experts // router.groups
    grouped = graph.op("Reshape", choice, graph.constant([0, 0, router.groups, size], np.int64))
    if router.group_score == "best":
        score = graph.op("ReduceMax", grouped, last, keepdims=0)
    else:
        score = _sum(ctx, _largest(ctx, grouped, 2), keepdims=0)
    least = graph.op("ReduceMin", _largest(ctx, score, router.kept_groups), last, keepdims=1)
    is_kept = graph.op("Unsqueeze", graph.op("GreaterOrEqual", score, least), last)
    kept = graph.op("Where", is_kept, grouped, graph.constant(_NEVER, F32))
    return graph.op("Reshape", kept, graph.constant([0, 0, moe.num_experts], np.int64))


def _sparse_mixed(ctx: Context, moe: MoeSpec, logits: str) -> _Routing:
    """SparseMixer as at inference: the i-th largest logit's share is its softmax among those that are not above it and
    near it, by `(largest - logit) / max(abs(logit), largest) <= 2 * jitter`.
    """
    graph, last, zero = ctx.graph, ctx.graph.constant([-1], np.int64), ctx.graph.constant(0.0, F32)
    best = _largest(ctx, logits, moe.top_k)
    one, others = graph.op("Unsqueeze", best, last), graph.op("Unsqueeze", logits, graph.constant([-2], np.int64))
    below = graph.op("Sub", one, others)  # [..., k, E]
    distance = graph.op("Div", below, graph.op("Max", graph.op("Abs", others), one))
    near = graph.op("LessOrEqual", distance, graph.constant(2 * moe.router.jitter, F32))
    counts = graph.op("And", near, graph.op("GreaterOrEqual", below, zero))
    terms = graph.op("Where", counts, graph.op("Exp", graph.op("Neg", below)), zero)
    shares = graph.op("Reciprocal", _sum(ctx, terms))  # [..., k, 1]
    # Each share back to its expert: the one whose logit it is.
    is_its = graph.op("Equal", below, zero)
    scores = graph.op("ReduceSum", graph.op("Where", is_its, shares, zero), graph.constant([-2], np.int64), keepdims=0)
    is_chosen = graph.op("Greater", scores, zero)
    factor = scaled(graph, _sum(ctx, scores), moe.router.scale, F32)
    return _Routing(choice=_logarithms(ctx, scores, is_chosen), factor=factor)


def _only_score(ctx: Context, logits: str) -> str:
    """The chosen expert's score, [..., 1]."""
    return ctx.graph.op("Sigmoid", ctx.graph.op("ReduceMax", logits, ctx.graph.constant([-1], np.int64), keepdims=1))


def _largest(ctx: Context, x: str, count: int) -> str:
    """The largest of the last dimension, the very largest first."""
    return ctx.graph.ops("TopK", x, ctx.graph.constant([count], np.int64), num_outputs=2, axis=-1)[0]


def _sum(ctx: Context, x: str, keepdims: int = 1) -> str:
    return ctx.graph.op("ReduceSum", x, ctx.graph.constant([-1], np.int64), keepdims=keepdims)
