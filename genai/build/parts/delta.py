"""Linear attention by the gated delta rule: convolution, recurrence, and a norm with a gate, as `DeltaSpec` says."""

from __future__ import annotations

import numpy as np

from genai.build.parts import recurrence
from genai.build.parts.context import F32, FLOAT, Context
from genai.build.parts.recurrence import Conv, Heads, Tokens, by_head, flat, own, silu, split
from genai.build.spec import DeltaSpec
from genai.contract import State

_LENGTH_EPS = 1e-6
"""What is added to the squared length of a key or query."""
_QKVZ, _BA = ("in_proj_qkv", "in_proj_z"), ("in_proj_b", "in_proj_a")
"""Products that checkpoints may hold as one, `in_proj_qkvz` and `in_proj_ba`."""


def states(delta: DeltaSpec, layer: int, hidden_size: int) -> tuple[State, ...]:
    """The layer's states."""
    return recurrence.states(layer, delta.kernel, delta.conv_size, _heads(delta))


def mix(ctx: Context, delta: DeltaSpec, x: str, layer: int) -> str:
    """[B, T, H] -> [B, T, value_size]: all but the output product."""
    graph, prefix, count = ctx.graph, f"model.layers.{layer}.{delta.name}", delta.num_value_heads
    qkv, z, rate, fading = (graph.cast(value, ctx.dtype, F32) for value in _products(ctx, delta, x, prefix))
    conv = Conv(name=f"{prefix}.conv1d", layer=layer, channels=delta.conv_size, kernel=delta.kernel)
    qk, v = split(ctx, silu(ctx, recurrence.causal_conv(ctx, conv, qkv)), 2 * delta.key_size, delta.value_size)
    qk = _of_length_one(ctx, by_head(ctx, qk, 2 * delta.num_key_heads, delta.key_dim), delta.key_dim)
    q, k = graph.ops("Split", qk, graph.constant([delta.num_key_heads] * 2, np.int64), num_outputs=2, axis=2)
    fading = recurrence.softplus_of_biased(ctx, fading, prefix, count)
    tokens = Tokens(
        queries=q,
        keys=k,
        values=by_head(ctx, v, count, delta.value_dim),
        decay=own(ctx, graph.op("Mul", fading, recurrence.decay_rates(ctx, prefix, count))),
        rate=own(ctx, graph.op("Sigmoid", rate)),
        scale=delta.key_dim**-0.5,
    )
    y = by_head(ctx, recurrence.recur(ctx, _heads(delta), layer, tokens), count, delta.value_dim)
    weight = ctx.weights.vector(f"{prefix}.norm.weight", delta.value_dim, F32)
    y = graph.op("RMSNormalization", y, weight, axis=-1, epsilon=delta.norm_eps, stash_type=FLOAT)
    return graph.cast(graph.op("Mul", flat(ctx, y, delta.value_size), silu(ctx, z)), F32, ctx.dtype)


def finish(ctx: Context, delta: DeltaSpec, x: str, layer: int) -> str:
    """The output product: [..., value_size] -> [..., H]."""
    name = f"model.layers.{layer}.{delta.name}.out_proj"
    return ctx.weights.linear(x, name, ctx.spec.hidden_size, delta.value_size)


def _heads(delta: DeltaSpec) -> Heads:
    count, shared = delta.num_value_heads, delta.num_value_heads // delta.num_key_heads
    key_heads = (head % delta.num_key_heads if delta.is_tiled else head // shared for head in range(count))
    return Heads(key_heads=tuple(key_heads), key_dim=delta.key_dim, value_dim=delta.value_dim)


def _products(ctx: Context, delta: DeltaSpec, x: str, prefix: str) -> list[str]:
    """q, k and v in one [B, T, conv_size], z [B, T, value_size], what rates and decays are made of [B, T, heads]."""
    sizes = {
        "in_proj_qkv": delta.conv_size,
        "in_proj_z": delta.value_size,
        "in_proj_b": delta.num_value_heads,
        "in_proj_a": delta.num_value_heads,
    }
    for fused, parts in (("in_proj_qkvz", _QKVZ), ("in_proj_ba", _BA)):
        if ctx.weights.has(f"{prefix}.{fused}.weight"):
            sizes[fused] = sum(sizes.pop(part) for part in parts)
    names = [f"{prefix}.{name}" for name in sizes]
    made = dict(zip(sizes, ctx.weights.linears(x, names, [*sizes.values()], ctx.spec.hidden_size), strict=True))
    if "in_proj_qkvz" in made:
        made |= zip(_QKVZ, split(ctx, made["in_proj_qkvz"], delta.conv_size, delta.value_size), strict=True)
    if "in_proj_ba" in made:
        shared = delta.num_value_heads // delta.num_key_heads
        paired = by_head(ctx, made["in_proj_ba"], delta.num_key_heads, 2 * shared)
        both = (flat(ctx, part, delta.num_value_heads) for part in split(ctx, paired, shared, shared))
        made |= zip(_BA, both, strict=True)
    return [made[name] for name in (*_QKVZ, *_BA)]


def _of_length_one(ctx: Context, x: str, size: int) -> str:
    """Queries or keys [B, T, heads, size] over their length: a norm by the mean, and smaller."""
    scale = ctx.graph.constant(np.full(size, size**-0.5), F32)
    return ctx.graph.op("RMSNormalization", x, scale, axis=-1, epsilon=_LENGTH_EPS / size, stash_type=FLOAT)
