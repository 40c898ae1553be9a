"""A decoder graph from a specification and a checkpoint: embedding, layers, head, or no head and embeddings.

    input_ids ─► embedding ─► block 0 … block n-1 ─► rows at logits_positions ─► norm ─► head ─► logits
                               │  ▲
                   key_cache.i ┴──┘ updated_key_cache.i   (the same memory; states alike)

`parts/` writes what stands inside a block.
"""

from __future__ import annotations

import functools
import itertools
from dataclasses import replace

import numpy as np
import onnx

from genai import contract
from genai.build.parts import WRITERS, caches_of, context, per_layer, states_of
from genai.build.parts.context import Context
from genai.build.spec import BlockSpec, DecoderSpec
from genai.build.weights import Weights
from genai.build.windows import windowed_layers
from genai.errors import UnsupportedModelError, WeightsError

_EMBEDDING = "model.embed_tokens"
_HEAD = "lm_head"
_IGNORED = ("rotary_emb.inv_freq",)  # older checkpoints store what the configuration already says
_F32 = np.dtype(np.float32)


def build_decoder(spec: DecoderSpec, weights: Weights, metadata: dict[str, str]) -> onnx.ModelProto:
    """Write a whole decoder; its weights go to the weights' external data as they are read.

    Raises: WeightsError for missing or misshapen tensors, UnsupportedModelError for tensors left over.
    """
    _check_sinks(spec)
    weights.require(_biases(spec))
    graph, blocks = weights.graph, spec.blocks
    ctx = Context.build(weights, spec)
    embedding, head = _ends(spec, weights) if spec.has_head else (_EMBEDDING, None)
    x, delta = context.embedding(ctx, embedding), None
    if spec.per_layer is not None:
        ctx = replace(ctx, per_layer=per_layer.embeddings(ctx, spec.per_layer, x))
    caches, states = [caches_of(block) for block in blocks], [states_of(block, spec) for block in blocks]
    last_to_write = max(index for index in range(len(blocks)) if caches[index] or states[index])
    for index, block in enumerate(blocks):
        with graph.scope(f"layer.{block.layer}"):
            x, delta = _block(ctx, x, delta, block, narrows=index == last_to_write)
        if index == last_to_write:
            ctx = ctx.narrowed(blocks[index + 1 :])
    with graph.scope("head"):
        output = _embeddings(ctx, x, delta) if head is None else _head(ctx, x, delta, head)
    weights.refuse_unused([*_IGNORED, *_unread(spec), *([f"{_HEAD}.weight"] if head in (None, embedding) else [])])
    windowed, all_states = windowed_layers(spec), [*itertools.chain(*states)]
    all_caches = [replace(cache, is_windowed=cache.layer in windowed) for cache in itertools.chain(*caches)]
    return graph.model(
        contract.inputs(
            all_caches, weights.plan.dtype, all_states, weights.adapter_room, repeats=ctx.repeated is not None
        ),
        contract.outputs(all_caches, weights.plan.dtype, output, all_states),
        metadata,
    )


def _check_sinks(spec: DecoderSpec) -> None:
    """All layers read their rows' reserved slot. Raises: UnsupportedModelError if some have no sinks there."""
    own = [(layer, heads) for layer, heads in spec.attentions.items() if heads.keys_of is None]
    without = [layer for layer, heads in own if not heads.has_sinks] + [*spec.latents]
    if spec.reserved_slots and without:
        layers = ", ".join(map(str, sorted(without)[:8])) + (", …" if len(without) > 8 else "")
        raise UnsupportedModelError(
            f"some layers have attention sinks, others ({layers}) have none: supported are sinks in all layers, or in "
            "none; `genai export SOURCE OUT` (transformers and torch) may run the model"
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


def _block(ctx: Context, x: str, delta: str | None, block: BlockSpec, *, narrows: bool) -> tuple[str, str | None]:
    """One block: the residual stream before its addition, and that addition, None if it has been done.

    narrows: it is the last that writes caches or states; from here on only the rows that get logits.
    """
    layer, prefix = block.layer, f"model.layers.{block.layer}."
    x, read = _norms(ctx, x, delta, block)
    writers = [WRITERS[type(part)] for part in block.parts]
    values = [
        writer.mix(ctx, part, value, layer) if writer.mix else value
        for writer, part, value in zip(writers, block.parts, read, strict=True)
    ]
    if narrows:
        kept = {value: ctx.at_logits_positions(value) for value in dict.fromkeys([*values, x])}
        values, x = [kept[value] for value in values], kept[x]
    results = [
        writer.finish(ctx, part, value, layer) for writer, part, value in zip(writers, block.parts, values, strict=True)
    ]
    total = functools.reduce(lambda left, right: ctx.graph.op("Add", left, right), results)
    delta = context.block_result(ctx, total, block.norm_out and prefix + block.norm_out)
    if block.stream_scale is None:
        return x, delta
    scale = ctx.weights.vector(prefix + block.stream_scale, 1, ctx.residual)
    return ctx.graph.op("Mul", ctx.graph.op("Add", x, delta), scale), None


def _norms(ctx: Context, x: str, delta: str | None, block: BlockSpec) -> tuple[str, list[str]]:
    """The residual stream with the addition, and what each of the block's parts reads of it."""
    prefix, names = f"model.layers.{block.layer}.", block.norm_in
    if isinstance(names, tuple):
        return context.add_and_norms(ctx, x, delta, [prefix + name for name in names])
    x, normed = context.add_and_norm(ctx, x, delta, names and prefix + names)
    return x, [normed] * len(block.parts)


def _embeddings(ctx: Context, x: str, delta: str | None) -> contract.Output:
    """What the final norm gives, in float32."""
    normed = _final_norm(ctx, x, delta)
    ctx.graph.op_into(contract.EMBEDDINGS, "Identity", ctx.graph.cast(normed, ctx.dtype, _F32))
    return contract.Output(contract.EMBEDDINGS, ctx.spec.hidden_size)


def _head(ctx: Context, x: str, delta: str | None, name: str) -> contract.Output:
    """Logits, in float32."""
    graph, spec = ctx.graph, ctx.spec
    normed = _final_norm(ctx, x, delta)
    logits = ctx.weights.head(normed, name, spec.vocab_size, spec.hidden_size, _HEAD)
    logits = context.scaled(graph, graph.cast(logits, ctx.dtype, _F32), spec.logits_scale, _F32)
    graph.op_into(contract.LOGITS, "Identity", context.softcapped(graph, logits, spec.logits_softcap))
    return contract.Output(contract.LOGITS, spec.vocab_size)


def _final_norm(ctx: Context, x: str, delta: str | None) -> str:
    """What the head reads, [B, P, H]."""
    _, normed = context.add_and_norm(ctx, x, delta, "model.norm")
    return normed if ctx.repeated is None else ctx.repeated.once(ctx.graph, normed)


def _unread(spec: DecoderSpec) -> list[str]:
    """Tensors that checkpoints may have though nothing reads them: keys and values of layers that read another's."""
    return [
        f"model.layers.{layer}.{heads.name}.{module}.weight"
        for layer, heads in spec.attentions.items()
        if heads.keys_of is not None
        for module in ("k_proj", "v_proj", "k_norm", "v_norm")
    ]


def _biases(spec: DecoderSpec) -> list[str]:
    """The bias tensors that the checkpoint must have."""
    inside = [
        f"model.layers.{block.layer}.{part.name}.{product}.bias"
        for block in spec.blocks
        for part in block.parts
        for product in sorted(part.biases)
    ]
    return inside + ([f"{_HEAD}.bias"] if spec.head_bias and spec.has_head else [])
