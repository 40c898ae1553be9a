"""A decoder graph from a specification and a checkpoint: embedding, layers, head.

    input_ids ─► embedding ─► layer 0 … layer n-1 ─► rows at logits_positions ─► norm ─► head ─► logits
                               │  ▲
                   key_cache.i ┴──┘ updated_key_cache.i   (the same memory)
"""

from __future__ import annotations

import numpy as np
import onnx

from genai import contract
from genai.build import layers
from genai.build.graph import GraphBuilder
from genai.build.spec import DecoderSpec
from genai.build.weights import Weights
from genai.progress import Progress, silent

_EMBEDDING = "model.embed_tokens"
_HEAD = "lm_head"
_IGNORED = ("rotary_emb.inv_freq",)  # older checkpoints store what the configuration already says


def build_decoder(
    spec: DecoderSpec, weights: Weights, metadata: dict[str, str], progress: Progress = silent
) -> onnx.ModelProto:
    """Write a whole decoder; its weights go to the weights' external data as they are read.

    Raises: WeightsError for missing or misshapen tensors, UnsupportedModelError for tensors left over.
    """
    graph = weights.graph
    step = layers.StepValues.build(weights, spec)
    x = weights.embedding(contract.INPUT_IDS, _EMBEDDING, spec.vocab_size, spec.hidden_size)
    x = layers.scaled(graph, x, spec.embedding_scale, weights.dtype)
    delta: str | None = None
    for layer in range(len(spec.layers)):
        progress("building", layer, len(spec.layers))
        with graph.scope(f"layer.{layer}"):
            x, delta = _layer(weights, x, delta, layer, spec, step)
    with graph.scope("head"):
        _head(weights, x, delta, spec)
    progress("building", len(spec.layers), len(spec.layers))
    weights.refuse_unused([*_IGNORED, *([f"{_HEAD}.weight"] if spec.is_head_tied else [])])
    kv_size = spec.layers[0].num_kv_heads * spec.layers[0].head_dim
    return graph.model(
        contract.inputs(len(spec.layers), kv_size, weights.plan.dtype),
        contract.outputs(len(spec.layers), kv_size, weights.plan.dtype, spec.vocab_size),
        metadata,
    )


def _layer(
    weights: Weights, x: str, delta: str | None, layer: int, spec: DecoderSpec, step: layers.StepValues
) -> tuple[str, str]:
    """One layer: the residual stream before its last addition, and that addition."""
    prefix, norms = f"model.layers.{layer}", spec.norms
    x, normed = layers.add_and_norm(weights, x, delta, _named(prefix, norms.attention_in), spec)
    attended = layers.attention(weights, normed, layer, spec, step)
    if layer == len(spec.layers) - 1:  # from here on only the rows that get logits
        attended, x = _at_logits_positions(weights, attended), _at_logits_positions(weights, x)
    delta = layers.attention_output(weights, attended, layer, spec)
    if norms.attention_out:
        delta = layers.norm(weights, delta, f"{prefix}.{norms.attention_out}", spec, spec.hidden_size)
    x, normed = layers.add_and_norm(weights, x, delta, _named(prefix, norms.mlp_in), spec)
    delta = layers.mlp(weights, normed, layer, spec)
    if norms.mlp_out:
        delta = layers.norm(weights, delta, f"{prefix}.{norms.mlp_out}", spec, spec.hidden_size)
    return x, delta


def _head(weights: Weights, x: str, delta: str | None, spec: DecoderSpec) -> None:
    graph = weights.graph
    _, normed = layers.add_and_norm(weights, x, delta, "model.norm", spec)
    name = _EMBEDDING if spec.is_head_tied else _HEAD
    logits = weights.head(normed, name, spec.vocab_size, spec.hidden_size)
    logits = graph.op("Cast", logits, to=int(onnx.TensorProto.FLOAT)) if weights.plan.dtype != "float32" else logits
    logits = layers.scaled(graph, logits, spec.logits_scale, np.dtype(np.float32))
    logits = layers.softcapped(graph, logits, spec.logits_softcap)
    graph.op_into(contract.LOGITS, "Identity", logits)


def _at_logits_positions(weights: Weights, x: str) -> str:
    """[B, T, H] -> [B, P, H]: each row's chosen positions."""
    graph = weights.graph
    indices = graph.op("Unsqueeze", contract.LOGITS_POSITIONS, graph.constant([2], np.int64))
    return graph.op("GatherND", x, indices, batch_dims=1)


def _named(prefix: str, name: str | None) -> str | None:
    return None if name is None else f"{prefix}.{name}"
