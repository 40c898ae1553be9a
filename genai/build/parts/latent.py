"""The latent attention part: one cache, whose entries are the key of all heads and, but for the rotated end, the value.

    queries ─► k_b of each head ─► Attention(q, cache, cache) ─► without the rotated end ─► v_b of each head ─► o_proj
                                     latent, rotated ─► TensorScatter ─┘

Scores are `q · k_b(c) + rotated`; `k_b` stands on the queries' side instead (`q · k_b(c) = k_bᵀ(q) · c`), so that no
head's keys and values are ever made. Values are the whole cache, as the operator reads it where it lies; what it gives
for the rotated end is left out.

A step of one token reads the cache once for all heads (`attending.py`), which takes a third to a quarter of the time of
once a head (20 heads of 576, 512 tokens: 0.6 ms for 2.7).
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

import numpy as np

from genai import contract
from genai.build.latent_heads import KEYS, VALUES, block_heads, float_heads
from genai.build.parts.attending import Attending, attended
from genai.build.parts.attention import scattered
from genai.build.parts.context import F32, FLOAT, Context
from genai.build.spec import LatentSpec
from genai.contract import Cache


def caches(latent: LatentSpec, layer: int) -> tuple[Cache, ...]:
    """The layer's one cache."""
    return (Cache(contract.key_cache(layer), latent.head_dim),)


def mix(ctx: Context, latent: LatentSpec, x: str, layer: int) -> str:
    """Queries in the latent's space, the write into the cache, and attention over it.

    x: [B, T, H]; the result: [B, T, num_heads * head_dim].
    """
    prefix = f"model.layers.{layer}.{latent.name}"
    queries, new = _products(ctx, latent, x, prefix)
    cache = scattered(ctx, contract.key_cache(layer), _entries(ctx, latent, new, prefix))
    queries = _in_latent_space(ctx, latent, queries, prefix)
    what = Attending(
        queries=queries, keys=cache, values=cache, num_heads=latent.num_heads, num_kv_heads=latent.num_kv_heads,
        scale=latent.scale, valid=contract.NONPAD_KV_SEQLEN,
    )  # fmt: skip
    return attended(ctx, what)


def finish(ctx: Context, latent: LatentSpec, x: str, layer: int) -> str:
    """Each head's values and the output product: [B, T, num_heads * head_dim] -> [B, T, H]."""
    graph, prefix, heads = ctx.graph, f"model.layers.{layer}.{latent.name}", latent.num_heads
    if _has_blocks(ctx):
        given = _split(ctx, x, [latent.latent_size, latent.rotary.size] * heads)[::2]
        made = ctx.weights.products(given, block_heads(ctx.weights, latent, prefix, VALUES))
        values = graph.op("Concat", *made, axis=-1)
    else:
        x = graph.op("Reshape", x, graph.constant([0, 0, heads, latent.head_dim], np.int64))
        bounds = (graph.constant(bound, np.int64) for bound in ([0], [latent.latent_size], [3]))
        values = _float_products(ctx, latent, graph.op("Slice", x, *bounds), prefix, VALUES)
        values = graph.op("Reshape", values, graph.constant([0, 0, heads * latent.value_size], np.int64))
    return ctx.weights.linear(values, f"{prefix}.o_proj", ctx.spec.hidden_size, heads * latent.value_size)


def _products(ctx: Context, latent: LatentSpec, x: str, prefix: str) -> tuple[str, str]:
    """All heads' queries [B, T, num_heads * query_size], and what will be the tokens' entries [B, T, head_dim]."""
    hidden, size = ctx.spec.hidden_size, latent.num_heads * latent.query_size
    first, rank = ("q_proj", size) if latent.query_rank is None else ("q_a_proj", latent.query_rank)
    names = [f"{prefix}.{first}", f"{prefix}.kv_a_proj_with_mqa"]
    queries, new = ctx.weights.linears(x, names, [rank, latent.head_dim], hidden)
    if latent.query_rank is not None:
        queries = _normed(ctx, latent, queries, f"{prefix}.q_a_layernorm", rank)
        queries = ctx.weights.linear(queries, f"{prefix}.q_b_proj", size, rank)
    return queries, new


def _entries(ctx: Context, latent: LatentSpec, new: str, prefix: str) -> str:
    """What is cached of the tokens: the latent after its norm, and the end, rotated."""
    c, rotated = _split(ctx, new, [latent.latent_size, latent.rotary.size])
    c = _normed(ctx, latent, c, f"{prefix}.kv_a_layernorm", latent.latent_size)
    return ctx.graph.op("Concat", c, _rotated(ctx, latent, rotated, num_heads=1), axis=-1)


def _in_latent_space(ctx: Context, latent: LatentSpec, queries: str, prefix: str) -> str:
    """Queries that read entries of the cache: [B, T, num_heads * query_size] -> [B, T, num_heads * head_dim]."""
    graph, heads, rotary = ctx.graph, latent.num_heads, latent.rotary.size
    split = graph.op("Reshape", queries, graph.constant([0, 0, heads, latent.query_size], np.int64))
    plain, ends = _split(ctx, split, [latent.plain_size, rotary])
    ends = graph.op("Reshape", ends, graph.constant([0, 0, heads * rotary], np.int64))
    ends = _rotated(ctx, latent, ends, heads)
    if _has_blocks(ctx):
        plain = graph.op("Reshape", plain, graph.constant([0, 0, heads * latent.plain_size], np.int64))
        given = _split(ctx, plain, [latent.plain_size] * heads)
        mapped = ctx.weights.products(given, block_heads(ctx.weights, latent, prefix, KEYS))
        in_turn = chain.from_iterable(zip(mapped, _split(ctx, ends, [rotary] * heads), strict=True))
        return graph.op("Concat", *in_turn, axis=-1)
    mapped_all = _float_products(ctx, latent, plain, prefix, KEYS)
    ends = graph.op("Reshape", ends, graph.constant([0, 0, heads, rotary], np.int64))
    joined = graph.op("Concat", mapped_all, ends, axis=-1)
    return graph.op("Reshape", joined, graph.constant([0, 0, heads * latent.head_dim], np.int64))


def _has_blocks(ctx: Context) -> bool:
    """Whether heads' matrices are integers, a product for each of them, or floats and one operator for all.

    On CPU the many products take less than a third of the time for one token (20 heads of 192 and 256: 0.44 ms a layer,
    as floats 1.6); elsewhere starting them would take longer than the products.
    """
    return ctx.weights.plan.matrices != "float" and ctx.dtype == F32


def _float_products(ctx: Context, latent: LatentSpec, x: str, prefix: str, part: str) -> str:
    """Each head's vector times its own matrix: [B, T, num_heads, K] -> [B, T, num_heads, N]."""
    sizes = {KEYS: (latent.plain_size, latent.latent_size), VALUES: (latent.latent_size, latent.value_size)}
    graph = ctx.graph
    matrices = (head.T for head in float_heads(ctx.weights, latent, prefix, part))
    weight = graph.stacked_weight(f"{prefix}.{part}", (latent.num_heads, *sizes[part]), ctx.dtype, matrices)
    by_head = graph.op("Transpose", x, perm=[0, 2, 1, 3])
    if ctx.dtype != F32:
        return graph.op("Transpose", graph.op("MatMul", by_head, weight), perm=[0, 2, 1, 3])
    # CPU kernels add up one row in another order than several (`attending.py`): it gets a second.
    padded = graph.op("Pad", by_head, graph.constant([0, 0, 0, 0, 0, 0, 1, 0], np.int64))
    made = graph.op("Transpose", graph.op("MatMul", padded, weight), perm=[0, 2, 1, 3])
    return graph.op("Slice", made, *(graph.constant(bound, np.int64) for bound in ([0], [-1], [1])))


def _normed(ctx: Context, latent: LatentSpec, x: str, name: str, size: int) -> str:
    scale = ctx.weights.vector(f"{name}.weight", size, ctx.dtype)
    return ctx.graph.op("RMSNormalization", x, scale, axis=-1, epsilon=latent.norm_eps, stash_type=FLOAT)


def _rotated(ctx: Context, latent: LatentSpec, x: str, num_heads: int) -> str:
    """The rotated ends of all heads, [B, T, num_heads * rotary.size], at the tokens' positions."""
    return ctx.graph.op(
        "RotaryEmbedding", x, *ctx.angles[latent.rotary], num_heads=num_heads,
        interleaved=1 if latent.rotary.is_interleaved else None,
    )  # fmt: skip


def _split(ctx: Context, x: str, sizes: Sequence[int]) -> list[str]:
    """Parts of a value along its last axis."""
    if len(sizes) == 1:
        return [x]
    return ctx.graph.ops("Split", x, ctx.graph.constant(sizes, np.int64), num_outputs=len(sizes), axis=-1)
