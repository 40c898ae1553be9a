"""Embeddings of each layer's own: made once a step for all layers, and added by each with a gate."""

from __future__ import annotations

import numpy as np

from genai import contract
from genai.build.parts.context import Context, norm, scaled
from genai.build.parts.mlp import activated
from genai.build.spec import PerLayerSpec

_TABLE, _PRODUCT, _NORM = (
    f"model.{name}" for name in ("embed_tokens_per_layer", "per_layer_model_projection", "per_layer_projection_norm")
)


def embeddings(ctx: Context, part: PerLayerSpec, x: str) -> str:
    """Every layer's embedding of each token, [B, T, layers, size]; x: what enters the first layer, [B, T, H]."""
    graph, weights, spec = ctx.graph, ctx.weights, ctx.spec
    width, shape = spec.num_layers * part.size, graph.constant([0, 0, spec.num_layers, part.size], np.int64)
    of_id = weights.embedding(contract.INPUT_IDS, _TABLE, part.vocab_size, width)
    of_id = scaled(graph, graph.op("Reshape", of_id, shape), part.size**0.5, ctx.dtype)
    of_x = weights.linear(graph.cast(x, ctx.residual, ctx.dtype), _PRODUCT, width, spec.hidden_size)
    of_x = scaled(graph, graph.op("Reshape", of_x, shape), spec.hidden_size**-0.5, ctx.dtype)
    both = graph.op("Add", norm(ctx, of_x, _NORM, part.size, ctx.dtype), of_id)
    return scaled(graph, both, 2**-0.5, ctx.dtype)


def finish(ctx: Context, part: PerLayerSpec, x: str, layer: int) -> str:
    """The layer's embedding through its gate: [..., H] -> [..., H]."""
    graph, weights, hidden = ctx.graph, ctx.weights, ctx.spec.hidden_size
    prefix = f"model.layers.{layer}.{part.name}"
    gate = activated(ctx, weights.linear(x, f"{prefix}_input_gate", part.size, hidden), part.activation, prefix)
    own = graph.op("Gather", ctx.per_layer, graph.constant(layer, np.int64), axis=2)
    return weights.linear(graph.op("Mul", gate, own), f"{prefix}_projection", hidden, part.size)
