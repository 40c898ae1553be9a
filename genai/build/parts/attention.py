"""The attention part: q/k/v → RotaryEmbedding(q, k) → TensorScatter(k, v) → Attention, then the output product."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genai import contract
from genai.build.parts import sinks
from genai.build.parts.attending import Attending, attended
from genai.build.parts.context import F32, FLOAT, Context, Sight, norm, norm_of_each
from genai.build.spec import AttentionSpec
from genai.contract import Cache

_CACHES = (contract.key_cache, contract.value_cache)


def caches(heads: AttentionSpec, layer: int) -> tuple[Cache, ...]:
    """The layer's own caches: none if it reads another's."""
    if heads.keys_of is not None:
        return ()
    key_size = heads.kv_size + heads.num_kv_heads * heads.sink_size
    return Cache(contract.key_cache(layer), key_size), Cache(contract.value_cache(layer), heads.kv_size)


def mix(ctx: Context, heads: AttentionSpec, x: str, layer: int) -> str:
    """Queries, keys and values of the new tokens, the write into the caches, and attention over them.

    x: [B, T, H]; the result, before the output product: [B, T, num_heads * head_dim].
    """
    graph, prefix = ctx.graph, f"model.layers.{layer}.{heads.name}"
    q, *new = _products(ctx, heads, x, prefix)
    q, gate = _gated_apart(ctx, q, heads) if heads.has_gate else (q, None)
    q, *new = _once(ctx, [q, *new])
    q = _position_encoded(ctx, q, f"{prefix}.q_norm", heads.num_heads, heads)
    if heads.temperature is not None:
        q = graph.op("Mul", q, ctx.temperatures[heads.temperature])
    q = sinks.in_queries(ctx, q, heads)
    keys, values = _cached(ctx, heads, new, layer)
    place = ctx.place_of(heads, layer)
    sight = Sight.of(heads, place)
    mask = ctx.masks[sight] if ctx.is_narrowed else ctx.masks.get(sight)
    what = Attending(
        queries=q, keys=keys, values=values, valid=place.valid, num_heads=heads.num_heads,
        num_kv_heads=heads.num_kv_heads, scale=heads.scale, softcap=heads.softcap, mask=mask,
        is_per_head=bool(heads.alibi) and sight.limit == heads.alibi,
    )  # fmt: skip
    result = attended(ctx, what)
    return result if gate is None else graph.op("Mul", result, gate)


def finish(ctx: Context, heads: AttentionSpec, x: str, layer: int) -> str:
    """The output product: [..., num_heads * head_dim] -> [..., H]."""
    name = f"model.layers.{layer}.{heads.name}.o_proj"
    return ctx.weights.linear(x, name, ctx.spec.hidden_size, heads.q_size)


def scattered(ctx: Context, cache: str, new: str, write_indices: str = contract.WRITE_INDICES) -> str:
    """A cache [B, S, width] after the new tokens' part [B, T, width] was written into it: a graph output."""
    return ctx.graph.op_into(contract.updated(cache), "TensorScatter", cache, new, write_indices, axis=1, mode="linear")


def _products(ctx: Context, heads: AttentionSpec, x: str, prefix: str) -> list[str]:
    """Queries [B, T, q_size], with gates twice as wide, keys and values [B, T, kv_size] of layers with their own."""
    graph, weights, hidden = ctx.graph, ctx.weights, ctx.spec.hidden_size
    q_size = 2 * heads.q_size if heads.has_gate else heads.q_size
    sizes = {"q_proj": q_size, "k_proj": heads.kv_size, "v_proj": heads.kv_size}
    if heads.is_fused:
        fused = weights.linear(x, f"{prefix}.qkv_proj", sum(sizes.values()), hidden)
        return graph.ops("Split", fused, graph.constant([*sizes.values()], np.int64), num_outputs=3, axis=-1)
    parts = (
        ["q_proj"] if heads.keys_of is not None else ["q_proj", "k_proj", *([] if heads.value_is_key else ["v_proj"])]
    )
    made = weights.linears(x, [f"{prefix}.{part}" for part in parts], [sizes[part] for part in parts], hidden)
    return [*made, made[1]] if len(made) == 2 else made


def _once(ctx: Context, values: Sequence[str]) -> list[str]:
    """Queries, keys and values [B, T, …] of what products have given, where that may be a lone token twice."""
    repeated = ctx.repeated
    if repeated is None or ctx.is_narrowed:
        return [*values]
    cut = {value: repeated.once(ctx.graph, value) for value in dict.fromkeys(values)}
    return [cut[value] for value in values]


def _gated_apart(ctx: Context, q: str, heads: AttentionSpec) -> list[str]:
    """Queries, and the factors of what their heads give, [B, T, q_size] each, from both of one head after the other."""
    graph, dim = ctx.graph, heads.head_dim
    paired = graph.op("Reshape", q, graph.constant([0, 0, heads.num_heads, 2 * dim], np.int64))
    parts = graph.ops("Split", paired, graph.constant([dim, dim], np.int64), num_outputs=2, axis=-1)
    flat = graph.constant([0, 0, heads.q_size], np.int64)
    queries, gate = (graph.op("Reshape", part, flat) for part in parts)
    return [queries, graph.cast(graph.op("Sigmoid", graph.cast(gate, ctx.dtype, F32)), F32, ctx.dtype)]


def _cached(ctx: Context, heads: AttentionSpec, new: Sequence[str], layer: int) -> list[str]:
    """Keys and values of all tokens, [B, S, width] each; new: those of a step, which are written."""
    names = [cache(heads.keys_layer(layer)) for cache in _CACHES]
    if heads.keys_of is not None:
        return [contract.updated(name) for name in names]
    k, v = new
    k = _position_encoded(ctx, k, f"model.layers.{layer}.{heads.name}.k_norm", heads.num_kv_heads, heads)
    k = sinks.in_keys(ctx, k, heads, layer)
    v = _value_normed(ctx, _clipped(ctx, v, heads), heads)
    write_indices = ctx.place_of(heads, layer).write_indices
    return [scattered(ctx, cache, part, write_indices) for cache, part in zip(names, (k, v), strict=True)]


def _value_normed(ctx: Context, v: str, heads: AttentionSpec) -> str:
    """Values after their norm over each head, where the layer has one."""
    if not heads.has_value_norm:
        return v
    graph = ctx.graph
    split = graph.op("Reshape", v, graph.constant([0, 0, heads.num_kv_heads, heads.head_dim], np.int64))
    split = _unit_normed(ctx, split, heads)
    return graph.op("Reshape", split, graph.constant([0, 0, heads.kv_size], np.int64))


def _unit_normed(ctx: Context, split: str, heads: AttentionSpec) -> str:
    ones = ctx.graph.constant(np.ones(heads.head_dim), ctx.dtype)
    return ctx.graph.op("RMSNormalization", split, ones, axis=-1, epsilon=ctx.spec.norm.eps, stash_type=FLOAT)


def _position_encoded(ctx: Context, x: str, norm_name: str, num_heads: int, heads: AttentionSpec) -> str:
    """Queries or keys [B, T, heads * head_dim] after their norm and rotary embedding, where the layer has them."""
    if heads.norms_rotated:
        x = _rotated(ctx, _clipped(ctx, x, heads), num_heads, heads)
        return _normed(ctx, x, norm_name, num_heads, heads)
    x = _normed(ctx, x, norm_name, num_heads, heads)
    return _rotated(ctx, _clipped(ctx, x, heads), num_heads, heads)


def _normed(ctx: Context, x: str, name: str, num_heads: int, heads: AttentionSpec) -> str:
    graph, size = ctx.graph, num_heads * heads.head_dim
    if heads.qk_norm == "none":
        return x
    if heads.qk_norm == "all_heads":
        return norm(ctx, x, name, size, ctx.dtype)
    split = graph.op("Reshape", x, graph.constant([0, 0, num_heads, heads.head_dim], np.int64))
    if heads.qk_norm == "per_head":
        split = norm(ctx, split, name, heads.head_dim, ctx.dtype)
    elif heads.qk_norm == "unit_per_head":
        split = _unit_normed(ctx, split, heads)
    else:
        split = norm_of_each(ctx, split, name, (num_heads, heads.head_dim))
    return graph.op("Reshape", split, graph.constant([0, 0, size], np.int64))


def _rotated(ctx: Context, x: str, num_heads: int, heads: AttentionSpec) -> str:
    if heads.rotary is None:
        return x
    rotated = heads.rotary.size if heads.rotary.size != heads.head_dim else None
    cos_sin = ctx.angles[heads.rotary]
    return ctx.graph.op(
        "RotaryEmbedding", x, *cos_sin, num_heads=num_heads, rotary_embedding_dim=rotated,
        interleaved=1 if heads.rotary.is_interleaved else None,
    )  # fmt: skip


def _clipped(ctx: Context, x: str, heads: AttentionSpec) -> str:
    """Queries, keys or values within the layer's bounds, if it has some."""
    if heads.clip is None:
        return x
    return ctx.graph.op("Clip", x, *(ctx.graph.constant(bound, ctx.dtype) for bound in (-heads.clip, heads.clip)))
