"""A decoder graph from a specification and a checkpoint: embedding, layers, head.

    input_ids ─► embedding ─► layer 0 … layer n-1 ─► rows at logits_positions ─► norm ─► head ─► logits
                               │  ▲
                   key_cache.i ┴──┘ updated_key_cache.i   (the same memory)

`layers.py` writes what stands inside a layer.
"""

from __future__ import annotations

import numpy as np
import onnx

from genai import contract
from genai.build import layers
from genai.build.spec import DecoderSpec
from genai.build.weights import Weights
from genai.errors import WeightsError
from genai.progress import Progress, silent

_EMBEDDING = "model.embed_tokens"
_HEAD = "lm_head"
_IGNORED = ("rotary_emb.inv_freq",)  # older checkpoints store what the configuration already says
_F32 = np.dtype(np.float32)


def build_decoder(
    spec: DecoderSpec, weights: Weights, metadata: dict[str, str], progress: Progress = silent
) -> onnx.ModelProto:
    """Write a whole decoder; its weights go to the weights' external data as they are read.

    Raises: WeightsError for missing or misshapen tensors, UnsupportedModelError for tensors left over.
    """
    weights.require(_biases(spec))
    graph, num_layers = weights.graph, len(spec.layers)
    ctx = layers.Context.build(weights, spec)
    embedding, head = _ends(spec, weights)
    x, delta = layers.embedding(ctx, embedding), None
    for layer in range(num_layers):
        progress("building", layer, num_layers)
        with graph.scope(f"layer.{layer}"):
            x, delta = _layer(ctx, x, delta, layer)
    with graph.scope("head"):
        _head(ctx, x, delta, head)
    progress("building", num_layers, num_layers)
    weights.refuse_unused([*_IGNORED, *([f"{_HEAD}.weight"] if embedding == head else [])])
    kv_size = spec.layers[0].num_kv_heads * spec.layers[0].head_dim
    return graph.model(
        contract.inputs(num_layers, kv_size, weights.plan.dtype),
        contract.outputs(num_layers, kv_size, weights.plan.dtype, spec.vocab_size),
        metadata,
    )


def _ends(spec: DecoderSpec, weights: Weights) -> tuple[str, str]:
    """The tensors of embedding and head, the same where they are tied.

    As transformers does it: what the checkpoint has twice, and differently, is not tied, whatever the configuration
    says; and of what is tied, either may be left out.
    """
    embedding, head = f"{_EMBEDDING}.weight", f"{_HEAD}.weight"
    if not spec.is_head_tied:
        if not weights.has(head):
            raise WeightsError(
                f"the checkpoint has no tensor {head!r}; if its head is its embedding, its config.json should say "
                '"tie_word_embeddings": true'
            )
        return _EMBEDDING, _HEAD
    if not weights.has(head):
        return _EMBEDDING, _EMBEDDING
    if not weights.has(embedding):
        return _HEAD, _HEAD
    return _EMBEDDING, _EMBEDDING if weights.are_equal(embedding, head) else _HEAD


def _layer(ctx: layers.Context, x: str, delta: str | None, layer: int) -> tuple[str, str]:
    """One layer: the residual stream before its last addition, and that addition."""
    norms = ctx.spec.norms.of_layer(layer)
    x, normed = layers.add_and_norm(ctx, x, delta, norms.attention_in)
    attended = layers.attention(ctx, normed, layer)
    if layer == len(ctx.spec.layers) - 1:  # from here on only the rows that get logits
        attended, x = _at_logits_positions(ctx, attended), _at_logits_positions(ctx, x)
    delta = layers.block_result(ctx, layers.attention_output(ctx, attended, layer), norms.attention_out)
    x, normed = layers.add_and_norm(ctx, x, delta, norms.mlp_in)
    return x, layers.block_result(ctx, layers.mlp(ctx, normed, layer), norms.mlp_out)


def _head(ctx: layers.Context, x: str, delta: str | None, name: str) -> None:
    graph, spec = ctx.graph, ctx.spec
    _, normed = layers.add_and_norm(ctx, x, delta, "model.norm")
    logits = ctx.weights.head(normed, name, spec.vocab_size, spec.hidden_size)
    logits = layers.scaled(graph, graph.cast(logits, ctx.dtype, _F32), spec.logits_scale, _F32)
    graph.op_into(contract.LOGITS, "Identity", layers.softcapped(graph, logits, spec.logits_softcap))


def _at_logits_positions(ctx: layers.Context, x: str) -> str:
    """[B, T, H] -> [B, P, H]: each row's chosen positions."""
    indices = ctx.graph.op("Unsqueeze", contract.LOGITS_POSITIONS, ctx.graph.constant([2], np.int64))
    return ctx.graph.op("GatherND", x, indices, batch_dims=1)


def _biases(spec: DecoderSpec) -> list[str]:
    """The bias tensors that the checkpoint must have."""
    blocks = {name: "mlp" if name in ("gate_proj", "up_proj", "down_proj") else "self_attn" for name in spec.biases}
    return [
        f"model.layers.{layer}.{block}.{name}.bias"
        for layer in range(len(spec.layers))
        for name, block in sorted(blocks.items())
    ]
