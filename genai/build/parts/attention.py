"""The attention part: q/k/v → RotaryEmbedding(q, k) → TensorScatter(k, v) → Attention, then the output product."""

from __future__ import annotations

import numpy as np

from genai import contract
from genai.build.parts.context import F32, FLOAT, Context, norm, norm_of_each
from genai.build.spec import AttentionSpec


def mix(ctx: Context, heads: AttentionSpec, x: str, layer: int) -> str:
    """Queries, keys and values of the new tokens, the write into the caches, and attention over them.

    x: [B, T, H]; the result, before the output product: [B, T, num_heads * head_dim].
    """
    graph, spec = ctx.graph, ctx.spec
    prefix = f"model.layers.{layer}.{heads.name}"
    sizes = [heads.num_heads * heads.head_dim, heads.kv_size, heads.kv_size]
    if heads.is_fused:
        fused = ctx.weights.linear(x, [f"{prefix}.qkv_proj"], [sum(sizes)], spec.hidden_size)
        q, k, v = graph.ops("Split", fused, graph.constant(sizes, np.int64), num_outputs=3, axis=-1)
    else:
        names = [f"{prefix}.q_proj", f"{prefix}.k_proj", f"{prefix}.v_proj"]
        q, k, v = ctx.weights.linears(x, names, sizes, spec.hidden_size)
    q = _position_encoded(ctx, q, f"{prefix}.q_norm", heads.num_heads, heads)
    k = _position_encoded(ctx, k, f"{prefix}.k_norm", heads.num_kv_heads, heads)
    v = _clipped(ctx, v, heads)
    if heads.temperature is not None:
        q = graph.op("Mul", q, ctx.temperatures[heads.temperature])
    keys, values = scattered(ctx, contract.key_cache(layer), k), scattered(ctx, contract.value_cache(layer), v)
    mask = ctx.masks.get(heads.sliding_window or heads.alibi)
    return graph.op(
        "Attention", q, keys, values, mask, None, None, contract.NONPAD_KV_SEQLEN,
        is_causal=1, q_num_heads=heads.num_heads, kv_num_heads=heads.num_kv_heads, scale=heads.scale,
        softcap=heads.softcap, softmax_precision=None if ctx.dtype == F32 else FLOAT,
    )  # fmt: skip


def finish(ctx: Context, heads: AttentionSpec, x: str, layer: int) -> str:
    """The output product: [..., num_heads * head_dim] -> [..., H]."""
    names = [f"model.layers.{layer}.{heads.name}.o_proj"]
    return ctx.weights.linear(x, names, [ctx.spec.hidden_size], heads.num_heads * heads.head_dim)


def scattered(ctx: Context, cache: str, new: str) -> str:
    """A cache [B, S, width] after the new tokens' part [B, T, width] was written into it: a graph output."""
    return ctx.graph.op_into(
        contract.updated(cache), "TensorScatter", cache, new, contract.WRITE_INDICES, axis=1, mode="linear"
    )


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
