"""The parts of a decoder layer, written into a graph.

    RMSNormalization → q/k/v → RotaryEmbedding(q, k) → TensorScatter(k, v) → Attention → o → residual
    → RMSNormalization → gate/up → activation → down → residual

Functions take and return names of graph values; shapes are in the docstrings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from genai import contract
from genai.build.graph import CONTRIB, GraphBuilder
from genai.build.masks import window_mask
from genai.build.spec import AttentionSpec, DecoderSpec, RotarySpec
from genai.build.weights import Weights

_F32 = np.dtype(np.float32)
_FLOAT = int(onnx.TensorProto.FLOAT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What the parts of one decoder are written with.

    graph: where to write; dtype, residual: the types of activations and of the residual stream; angles: (cos, sin) by
    frequencies and masks by window, which layers share.
    """

    weights: Weights
    graph: GraphBuilder
    spec: DecoderSpec
    dtype: np.dtype[np.generic]
    residual: np.dtype[np.generic]
    angles: dict[RotarySpec, tuple[str, str]]
    masks: dict[int, str]

    @classmethod
    def build(cls, weights: Weights, spec: DecoderSpec) -> Context:
        """Write what is computed once for each step."""
        rotaries = dict.fromkeys(layer.rotary for layer in spec.layers if layer.rotary)
        windows = dict.fromkeys(layer.sliding_window for layer in spec.layers if layer.sliding_window)
        return cls(
            weights=weights,
            graph=weights.graph,
            spec=spec,
            dtype=weights.dtype,
            residual=_F32 if spec.has_wide_residual and weights.dtype == np.float16 else weights.dtype,
            angles={rotary: rotary_angles(weights, rotary) for rotary in rotaries},
            masks={window: _window(weights, window) for window in windows},
        )


def scaled(graph: GraphBuilder, x: str, factor: float, dtype: np.dtype[np.generic]) -> str:
    """`x * factor`, or x itself when the factor is 1."""
    return x if factor == 1.0 else graph.op("Mul", x, graph.constant(factor, dtype))


def softcapped(graph: GraphBuilder, x: str, cap: float | None) -> str:
    """`cap * tanh(x / cap)` of a float32 value, or x itself without a cap."""
    if cap is None:
        return x
    return scaled(graph, graph.op("Tanh", scaled(graph, x, 1.0 / cap, _F32)), cap, _F32)


def norm(ctx: Context, x: str, name: str, size: int, dtype: np.dtype[np.generic]) -> str:
    """`x / rms(x) * (weight + offset)` over the last dimension of a value of this type, computed in float32."""
    scale = ctx.weights.vector(f"{name}.weight", size, dtype, offset=ctx.spec.norm_offset)
    return ctx.graph.op("RMSNormalization", x, scale, axis=-1, epsilon=ctx.spec.norm_eps, stash_type=_FLOAT)


def embedding(ctx: Context, name: str) -> str:
    """The residual stream's beginning [B, T, H]: the tokens' embeddings, scaled."""
    x = ctx.weights.embedding(contract.INPUT_IDS, name, ctx.spec.vocab_size, ctx.spec.hidden_size)
    x = ctx.graph.cast(x, ctx.dtype, ctx.residual)
    return scaled(ctx.graph, x, ctx.spec.embedding_scale, ctx.residual)


def block_result(ctx: Context, x: str, norm_name: str | None) -> str:
    """What a block adds to the residual stream, in its type: the last product, after its norm if it has one."""
    x = ctx.graph.cast(x, ctx.dtype, ctx.residual)
    if norm_name is not None:
        x = norm(ctx, x, norm_name, ctx.spec.hidden_size, ctx.residual)
    return scaled(ctx.graph, x, ctx.spec.residual_scale, ctx.residual)


def add_and_norm(ctx: Context, x: str, delta: str | None, name: str | None) -> tuple[str, str]:
    """(x + delta, its norm in the activations' type): the residual stream after a block, and what the next one reads.

    Without a delta or a norm that part is left out. One fused node where contrib operators are allowed.
    """
    graph, spec = ctx.graph, ctx.spec
    if delta is not None and name is not None and ctx.residual == ctx.dtype and not ctx.weights.plan.is_standard:
        scale = ctx.weights.vector(f"{name}.weight", spec.hidden_size, ctx.dtype, offset=spec.norm_offset)
        normed, total = graph.op_chosen(
            "SkipSimplifiedLayerNormalization", x, delta, scale,
            outputs=[True, False, False, True], domain=CONTRIB, epsilon=spec.norm_eps,
        )  # fmt: skip
        return total, normed
    total = x if delta is None else graph.op("Add", x, delta)
    normed = total if name is None else norm(ctx, total, name, spec.hidden_size, ctx.residual)
    return total, graph.cast(normed, ctx.residual, ctx.dtype)


def rotary_angles(weights: Weights, spec: RotarySpec) -> tuple[str, str]:
    """cos and sin [B, T, size / 2] of `position_ids`: once per step for all layers with these frequencies."""
    graph = weights.graph
    positions = graph.op("Unsqueeze", contract.POSITION_IDS, graph.constant([2], np.int64))
    positions = graph.op("Cast", positions, to=_FLOAT)
    angles = graph.op("Mul", positions, graph.constant([[spec.inverse_frequencies]], _F32))
    cos, sin = (scaled(graph, graph.op(kind, angles), spec.scale, _F32) for kind in ("Cos", "Sin"))
    return graph.cast(cos, _F32, weights.dtype), graph.cast(sin, _F32, weights.dtype)


def _window(weights: Weights, window: int) -> str:
    graph = weights.graph
    mask = window_mask(graph, contract.INPUT_IDS, contract.WRITE_INDICES, contract.key_cache(0), window)
    return graph.cast(mask, _F32, weights.dtype)


def attention(ctx: Context, x: str, layer: int) -> str:
    """Queries, keys and values of the new tokens, the write into the caches, and attention over them.

    x: [B, T, H]; the result, before the output product: [B, T, num_heads * head_dim].
    """
    graph, spec, heads = ctx.graph, ctx.spec, ctx.spec.layers[layer]
    prefix = f"model.layers.{layer}.self_attn"
    kv_size = heads.num_kv_heads * heads.head_dim
    sizes = [heads.num_heads * heads.head_dim, kv_size, kv_size]
    if spec.fused_checkpoint:
        fused = ctx.weights.linear(x, [f"{prefix}.qkv_proj"], [sum(sizes)], spec.hidden_size)
    else:
        names = [f"{prefix}.q_proj", f"{prefix}.k_proj", f"{prefix}.v_proj"]
        fused = ctx.weights.linear(x, names, sizes, spec.hidden_size)
    q, k, v = graph.ops("Split", fused, graph.constant(sizes, np.int64), num_outputs=3, axis=-1)
    q = _position_encoded(ctx, q, f"{prefix}.q_norm", heads.num_heads, heads)
    k = _position_encoded(ctx, k, f"{prefix}.k_norm", heads.num_kv_heads, heads)
    keys, values = (
        graph.op_into(
            contract.updated(cache), "TensorScatter", cache, new, contract.WRITE_INDICES, axis=1, mode="linear"
        )
        for cache, new in ((contract.key_cache(layer), k), (contract.value_cache(layer), v))
    )
    mask = ctx.masks[heads.sliding_window] if heads.sliding_window else None
    return graph.op(
        "Attention", q, keys, values, mask, None, None, contract.NONPAD_KV_SEQLEN,
        is_causal=1, q_num_heads=heads.num_heads, kv_num_heads=heads.num_kv_heads, scale=heads.scale,
        softcap=heads.softcap, softmax_precision=None if ctx.dtype == _F32 else _FLOAT,
    )  # fmt: skip


def attention_output(ctx: Context, x: str, layer: int) -> str:
    """The output product: [..., num_heads * head_dim] -> [..., H]."""
    heads = ctx.spec.layers[layer]
    names = [f"model.layers.{layer}.self_attn.o_proj"]
    return ctx.weights.linear(x, names, [ctx.spec.hidden_size], heads.num_heads * heads.head_dim)


def mlp(ctx: Context, x: str, layer: int) -> str:
    """Gated MLP: `down(activation(gate(x)) * up(x))`, [..., H] -> [..., H]."""
    graph, spec, size = ctx.graph, ctx.spec, ctx.spec.intermediate_size
    prefix = f"model.layers.{layer}.mlp"
    if spec.fused_checkpoint:
        fused = ctx.weights.linear(x, [f"{prefix}.gate_up_proj"], [2 * size], spec.hidden_size)
    else:
        names = [f"{prefix}.gate_proj", f"{prefix}.up_proj"]
        fused = ctx.weights.linear(x, names, [size, size], spec.hidden_size)
    gate, up = graph.ops("Split", fused, graph.constant([size, size], np.int64), num_outputs=2, axis=-1)
    gated = graph.op("Mul", _activated(ctx, gate), up)
    return ctx.weights.linear(gated, [f"{prefix}.down_proj"], [spec.hidden_size], size)


def _activated(ctx: Context, x: str) -> str:
    graph = ctx.graph
    if not ctx.weights.plan.is_standard and ctx.spec.activation == "silu":
        return graph.op("QuickGelu", x, domain=CONTRIB, alpha=1.0)  # x * sigmoid(x): SiLU in one node
    # Runtimes have float16 kernels for these operators, but not everywhere bfloat16 ones.
    dtype = ctx.dtype if ctx.dtype in (_F32, np.float16) else _F32
    x = graph.cast(x, ctx.dtype, dtype)
    if ctx.spec.activation == "gelu_tanh":
        x = graph.op("Gelu", x, approximate="tanh")
    else:
        x = graph.op("Mul", x, graph.op("Sigmoid", x))
    return graph.cast(x, dtype, ctx.dtype)


def _position_encoded(ctx: Context, x: str, norm_name: str, num_heads: int, heads: AttentionSpec) -> str:
    """Queries or keys [B, T, heads * head_dim] after their norm and rotary embedding, where the layer has them."""
    graph, size = ctx.graph, num_heads * heads.head_dim
    if heads.qk_norm == "all_heads":
        x = norm(ctx, x, norm_name, size, ctx.dtype)
    elif heads.qk_norm == "per_head":
        split = graph.op("Reshape", x, graph.constant([0, 0, num_heads, heads.head_dim], np.int64))
        split = norm(ctx, split, norm_name, heads.head_dim, ctx.dtype)
        x = graph.op("Reshape", split, graph.constant([0, 0, size], np.int64))
    if heads.rotary is None:
        return x
    rotated = heads.rotary.size if heads.rotary.size != heads.head_dim else None
    cos_sin = ctx.angles[heads.rotary]
    return graph.op("RotaryEmbedding", x, *cos_sin, num_heads=num_heads, rotary_embedding_dim=rotated)
