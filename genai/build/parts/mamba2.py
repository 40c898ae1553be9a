"""The Mamba-2 mixer: convolution, recurrence, and a norm around a gate, as `Mamba2Spec` says."""

from __future__ import annotations

import math

import numpy as np

from genai.build.parts import recurrence
from genai.build.parts.context import F32, FLOAT, Context
from genai.build.parts.recurrence import Conv, Heads, Tokens, by_head, flat, own, silu, split
from genai.build.spec import Mamba2Spec
from genai.contract import State


def states(mamba: Mamba2Spec, layer: int, hidden_size: int) -> tuple[State, ...]:
    """The layer's states."""
    return recurrence.states(layer, mamba.kernel, mamba.conv_size, _heads(mamba))


def mix(ctx: Context, mamba: Mamba2Spec, x: str, layer: int) -> str:
    """[B, T, H] -> [B, T, inner_size]: all but the output product."""
    graph, prefix, count = ctx.graph, f"model.layers.{layer}.{mamba.name}", mamba.num_heads
    sizes = (mamba.inner_size, mamba.conv_size, count)
    projected = ctx.weights.linear(x, f"{prefix}.in_proj", sum(sizes), ctx.spec.hidden_size)
    z, xbc, dt = split(ctx, graph.cast(projected, ctx.dtype, F32), *sizes)
    conv = Conv(name=f"{prefix}.conv1d", layer=layer, channels=mamba.conv_size, kernel=mamba.kernel)
    xbc = silu(ctx, recurrence.causal_conv(ctx, conv, xbc))
    inner, b, c = split(ctx, xbc, mamba.inner_size, mamba.group_size, mamba.group_size)
    inner = by_head(ctx, inner, count, mamba.head_dim)
    dt = own(ctx, _bounded(ctx, mamba, recurrence.softplus_of_biased(ctx, dt, prefix, count)))
    tokens = Tokens(
        queries=by_head(ctx, c, mamba.num_groups, mamba.state_size),
        keys=by_head(ctx, b, mamba.num_groups, mamba.state_size),
        values=graph.op("Mul", inner, graph.op("Unsqueeze", dt, graph.constant([3], np.int64))),
        decay=graph.op("Mul", dt, recurrence.decay_rates(ctx, prefix, count)),
    )
    y = recurrence.recur(ctx, _heads(mamba), layer, tokens)
    skip = graph.weight(f"{prefix}.D", ctx.weights.read(f"{prefix}.D", (count,)).reshape(count, 1))
    y = graph.op("Add", y, flat(ctx, graph.op("Mul", inner, skip), mamba.inner_size))
    return graph.cast(_gated(ctx, mamba, y, silu(ctx, z), f"{prefix}.norm"), F32, ctx.dtype)


def finish(ctx: Context, mamba: Mamba2Spec, x: str, layer: int) -> str:
    """The output product: [..., inner_size] -> [..., H]."""
    name = f"model.layers.{layer}.{mamba.name}.out_proj"
    return ctx.weights.linear(x, name, ctx.spec.hidden_size, mamba.inner_size)


def _heads(mamba: Mamba2Spec) -> Heads:
    shared = mamba.num_heads // mamba.num_groups
    groups = tuple(head // shared for head in range(mamba.num_heads))
    return Heads(key_heads=groups, key_dim=mamba.state_size, value_dim=mamba.head_dim)


def _bounded(ctx: Context, mamba: Mamba2Spec, dt: str) -> str:
    least, most = mamba.bounds
    if least <= 0 and most == math.inf:
        return dt
    bounds = (ctx.graph.constant(bound, F32) if math.isfinite(bound) else None for bound in (least, most))
    return ctx.graph.op("Clip", dt, *bounds)


def _gated(ctx: Context, mamba: Mamba2Spec, y: str, gate: str, name: str) -> str:
    """What the heads give [B, T, inner_size], with its gate and its norm."""
    if mamba.gating == "without_norm":
        return ctx.graph.op("Mul", y, gate)
    if mamba.gating == "before_norm":
        return _normed(ctx, mamba, ctx.graph.op("Mul", y, gate), name)
    return ctx.graph.op("Mul", _normed(ctx, mamba, y, name), gate)


def _normed(ctx: Context, mamba: Mamba2Spec, y: str, name: str) -> str:
    """The norm over each group, with a weight for each element."""
    graph, size = ctx.graph, mamba.inner_size // mamba.num_groups
    ones = graph.constant(np.ones(size), F32)
    y = by_head(ctx, y, mamba.num_groups, size)
    y = graph.op("RMSNormalization", y, ones, axis=-1, epsilon=mamba.norm_eps, stash_type=FLOAT)
    return graph.op("Mul", flat(ctx, y, mamba.inner_size), ctx.weights.vector(f"{name}.weight", mamba.inner_size, F32))
