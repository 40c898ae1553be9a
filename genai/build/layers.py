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
from genai.build.spec import AttentionSpec, DecoderSpec, RotarySpec
from genai.build.weights import Weights

_F32 = np.dtype(np.float32)
_FLOAT = int(onnx.TensorProto.FLOAT)


def scaled(graph: GraphBuilder, x: str, factor: float, dtype: np.dtype[np.generic]) -> str:
    """`x * factor`, or x itself when the factor is 1."""
    return x if factor == 1.0 else graph.op("Mul", x, graph.constant(factor, dtype))


def softcapped(graph: GraphBuilder, x: str, cap: float | None) -> str:
    """`cap * tanh(x / cap)` of a float32 value, or x itself without a cap."""
    if cap is None:
        return x
    return scaled(graph, graph.op("Tanh", scaled(graph, x, 1.0 / cap, _F32)), cap, _F32)


def norm(weights: Weights, x: str, name: str, spec: DecoderSpec, size: int) -> str:
    """`x / rms(x) * (weight + offset)` over the last dimension, computed in float32."""
    scale = weights.vector(f"{name}.weight", size, offset=spec.norm_offset)
    return weights.graph.op("RMSNormalization", x, scale, axis=-1, epsilon=spec.norm_eps, stash_type=_FLOAT)


def add_and_norm(weights: Weights, x: str, delta: str | None, name: str | None, spec: DecoderSpec) -> tuple[str, str]:
    """(x + delta, its norm): the residual stream after a block, and what the next block reads.

    Without a delta or a norm that part is left out. One fused node where contrib operators are allowed.
    """
    graph = weights.graph
    delta = None if delta is None else scaled(graph, delta, spec.residual_scale, weights.dtype)
    if delta is not None and name is not None and not weights.plan.is_standard:
        scale = weights.vector(f"{name}.weight", spec.hidden_size, offset=spec.norm_offset)
        normed, total = graph.op_chosen(
            "SkipSimplifiedLayerNormalization", x, delta, scale,
            outputs=[True, False, False, True], domain=CONTRIB, epsilon=spec.norm_eps,
        )  # fmt: skip
        return total, normed
    total = x if delta is None else graph.op("Add", x, delta)
    return total, total if name is None else norm(weights, total, name, spec, spec.hidden_size)


def rotary_angles(weights: Weights, spec: RotarySpec) -> tuple[str, str]:
    """cos and sin [B, T, size / 2] of `position_ids`: once per step for all layers with these frequencies."""
    graph = weights.graph
    positions = graph.op("Unsqueeze", contract.POSITION_IDS, graph.constant([2], np.int64))
    positions = graph.op("Cast", positions, to=_FLOAT)
    angles = graph.op("Mul", positions, graph.constant([[spec.inverse_frequencies]], _F32))
    cos, sin = graph.op("Cos", angles), graph.op("Sin", angles)
    if spec.scale != 1.0:
        factor = graph.constant(spec.scale, _F32)
        cos, sin = graph.op("Mul", cos, factor), graph.op("Mul", sin, factor)
    return weights.cast_down(cos), weights.cast_down(sin)


def window_mask(weights: Weights, window: int) -> str:
    """Additive mask [B, 1, T, S] that hides keys older than the window; causality is Attention's own.

    Query t of a row stands at cache index `write_indices + t` and sees the keys j > that - window.
    """
    graph = weights.graph
    zero, one = graph.constant(0, np.int64), graph.constant(1, np.int64)
    tokens = graph.op("Squeeze", graph.op("Shape", contract.INPUT_IDS, start=1, end=2))
    capacity = graph.op("Squeeze", graph.op("Shape", contract.key_cache(0), start=1, end=2))
    queries = graph.op(
        "Add",
        graph.op("Unsqueeze", contract.WRITE_INDICES, graph.constant([1, 2, 3], np.int64)),
        graph.op("Unsqueeze", graph.op("Range", zero, tokens, one), graph.constant([0, 1, 3], np.int64)),
    )
    oldest = graph.op("Sub", queries, graph.constant(window - 1, np.int64))
    is_hidden = graph.op("Less", graph.op("Range", zero, capacity, one), oldest)
    return graph.op("Where", is_hidden, graph.constant(-np.inf, weights.dtype), graph.constant(0, weights.dtype))


@dataclass(frozen=True, slots=True, kw_only=True)
class StepValues:
    """What layers share within one step: (cos, sin) by frequencies and masks by window."""

    angles: dict[RotarySpec, tuple[str, str]]
    masks: dict[int, str]

    @classmethod
    def build(cls, weights: Weights, spec: DecoderSpec) -> StepValues:
        """Write the shared values that any of the layers needs."""
        rotaries = dict.fromkeys(layer.rotary for layer in spec.layers if layer.rotary)
        windows = dict.fromkeys(layer.sliding_window for layer in spec.layers if layer.sliding_window)
        return cls(
            angles={rotary: rotary_angles(weights, rotary) for rotary in rotaries},
            masks={window: window_mask(weights, window) for window in windows},
        )


def attention(weights: Weights, x: str, layer: int, spec: DecoderSpec, step: StepValues) -> str:
    """Queries, keys and values of the new tokens, the write into the caches, and attention over them.

    x: [B, T, H]; the result, before the output product: [B, T, num_heads * head_dim].
    """
    graph, heads = weights.graph, spec.layers[layer]
    prefix = f"model.layers.{layer}.self_attn"
    kv_size = heads.num_kv_heads * heads.head_dim
    sizes = [heads.num_heads * heads.head_dim, kv_size, kv_size]
    if spec.fused_checkpoint:
        fused = weights.linear(x, [f"{prefix}.qkv_proj"], [sum(sizes)], spec.hidden_size)
    else:
        names = [f"{prefix}.q_proj", f"{prefix}.k_proj", f"{prefix}.v_proj"]
        fused = weights.linear(x, names, sizes, spec.hidden_size)
    q, k, v = graph.ops("Split", fused, graph.constant(sizes, np.int64), num_outputs=3, axis=-1)
    q = _position_encoded(weights, q, f"{prefix}.q_norm", heads.num_heads, spec, heads, step)
    k = _position_encoded(weights, k, f"{prefix}.k_norm", heads.num_kv_heads, spec, heads, step)
    keys, values = (
        graph.op_into(
            contract.updated(cache), "TensorScatter", cache, new, contract.WRITE_INDICES, axis=1, mode="linear"
        )
        for cache, new in ((contract.key_cache(layer), k), (contract.value_cache(layer), v))
    )
    mask = step.masks[heads.sliding_window] if heads.sliding_window else None
    return graph.op(
        "Attention", q, keys, values, mask, None, None, contract.NONPAD_KV_SEQLEN,
        is_causal=1, q_num_heads=heads.num_heads, kv_num_heads=heads.num_kv_heads, scale=heads.scale,
        softcap=heads.softcap, softmax_precision=None if weights.dtype == _F32 else _FLOAT,
    )  # fmt: skip


def attention_output(weights: Weights, x: str, layer: int, spec: DecoderSpec) -> str:
    """The output product: [..., num_heads * head_dim] -> [..., H]."""
    heads = spec.layers[layer]
    names = [f"model.layers.{layer}.self_attn.o_proj"]
    return weights.linear(x, names, [spec.hidden_size], heads.num_heads * heads.head_dim)


def mlp(weights: Weights, x: str, layer: int, spec: DecoderSpec) -> str:
    """Gated MLP: `down(activation(gate(x)) * up(x))`, [..., H] -> [..., H]."""
    graph, size = weights.graph, spec.intermediate_size
    prefix = f"model.layers.{layer}.mlp"
    if spec.fused_checkpoint:
        fused = weights.linear(x, [f"{prefix}.gate_up_proj"], [2 * size], spec.hidden_size)
    else:
        fused = weights.linear(x, [f"{prefix}.gate_proj", f"{prefix}.up_proj"], [size, size], spec.hidden_size)
    gate, up = graph.ops("Split", fused, graph.constant([size, size], np.int64), num_outputs=2, axis=-1)
    gated = graph.op("Mul", _activated(weights, gate, spec), up)
    return weights.linear(gated, [f"{prefix}.down_proj"], [spec.hidden_size], size)


def _activated(weights: Weights, x: str, spec: DecoderSpec) -> str:
    graph = weights.graph
    if spec.activation == "gelu_tanh":
        return graph.op("Gelu", x, approximate="tanh")
    if weights.plan.is_standard:
        return graph.op("Mul", x, graph.op("Sigmoid", x))
    return graph.op("QuickGelu", x, domain=CONTRIB, alpha=1.0)  # x * sigmoid(x): SiLU in one node


def _position_encoded(
    weights: Weights, x: str, norm_name: str, num_heads: int, spec: DecoderSpec, heads: AttentionSpec, step: StepValues
) -> str:
    """Queries or keys [B, T, heads * head_dim] after their norm and rotary embedding, where the layer has them."""
    graph = weights.graph
    size = num_heads * heads.head_dim
    if heads.qk_norm == "all_heads":
        x = norm(weights, x, norm_name, spec, size)
    elif heads.qk_norm == "per_head":
        split = graph.op("Reshape", x, graph.constant([0, 0, num_heads, heads.head_dim], np.int64))
        split = norm(weights, split, norm_name, spec, heads.head_dim)
        x = graph.op("Reshape", split, graph.constant([0, 0, size], np.int64))
    if heads.rotary is None:
        return x
    rotated = heads.rotary.size if heads.rotary.size != heads.head_dim else None
    cos_sin = step.angles[heads.rotary]
    return graph.op("RotaryEmbedding", x, *cos_sin, num_heads=num_heads, rotary_embedding_dim=rotated)

