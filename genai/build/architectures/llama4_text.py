"""Llama 4 (text): chunks of positions, layers without rotary embedding, an expert that reads what its score says."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from genai.build.architectures.config import ConfigReader
from genai.build.architectures.experts import experts, feed_forwards, shared
from genai.build.source import JSON
from genai.build.spec import AttentionSpec, ChunkSpec, DecoderSpec, RouterSpec, TemperatureSpec
from genai.build.stored import StoredForm
from genai.errors import UnsupportedModelError

_DEFAULTS: dict[str, JSON] = {
    "attention_chunk_size": 8192,
    "attn_scale": 0.1,
    "attn_temperature_tuning": True,
    "floor_scale": 8192,
    "head_dim": 128,
    "interleave_moe_layer_step": 1,
    "no_rope_layer_interval": 4,
    "num_experts_per_tok": 1,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "use_qk_norm": True,
}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """One expert for each token, beside one for all, in every `interleave_moe_layer_step`-th layer.

    Its score multiplies what it reads: with several, each would read something else, for which no operator is made.
    """
    config = config.with_defaults(_DEFAULTS)
    if (chosen := config.size("num_experts_per_tok")) != 1:
        raise UnsupportedModelError(
            f"Llama 4 with {chosen} experts for each token: each would read something else, which no operator does"
        )
    count, interval = config.num_layers, config.size("no_rope_layer_interval")
    rotates = config.items("no_rope_layers", count) or [int((layer + 1) % interval != 0) for layer in range(count)]
    moe = experts(
        config, RouterSpec(score="sigmoid", is_normalised=False, multiplies="input"), size_key="intermediate_size"
    )
    everyones = shared(config, moe.size, "mlp.shared_expert")
    dense = dataclasses.replace(config.mlp(), size=config.size("intermediate_size_mlp", moe.size))
    step = config.size("interleave_moe_layer_step")
    layers = config.numbers("moe_layers") or range(step - 1, count, step)
    return config.decoder(_attentions(config, rotates), feed_forwards(config, (moe, everyones), layers, dense))


def _attentions(config: ConfigReader, rotates: Sequence[JSON]) -> list[AttentionSpec]:
    """Layers that rotate see their own chunk; the others see everything, the sharper the further they are."""
    chunk = config.optional_size("attention_chunk_size")
    everywhere = config.attention(None)
    nearby = dataclasses.replace(
        everywhere,
        rotary=dataclasses.replace(config.rotary(), is_interleaved=True),
        qk_norm="unit_per_head" if config.flag("use_qk_norm") else "none",
        norms_rotated=True,
    )
    if config.flag("attn_temperature_tuning"):
        temperature = TemperatureSpec(
            weight=config.number("attn_scale", 0.1), period=config.size("floor_scale"), offset=1
        )
        everywhere = dataclasses.replace(everywhere, temperature=temperature)
    kinds = config.items("layer_types", len(rotates)) or [
        "chunked_attention" if each else "full_attention" for each in rotates
    ]
    attentions = []
    for rotated, kind in zip(rotates, kinds, strict=True):
        if kind not in ("chunked_attention", "full_attention"):
            raise UnsupportedModelError(f"layer type {kind!r} in Llama 4")
        is_cut = kind == "chunked_attention" and chunk is not None and chunk < config.max_position
        each = nearby if rotated else everywhere
        attentions.append(dataclasses.replace(each, chunk=ChunkSpec(size=chunk) if is_cut and chunk else None))
    return attentions


def stored_form(config: ConfigReader) -> StoredForm:
    """All experts of a layer stand in one tensor, [E, H, 2·I] and [E, I, H]."""
    return StoredForm(
        inside={
            "feed_forward": "mlp",
            "feed_forward.router": "mlp.gate",
            "feed_forward.experts.gate_up_proj": "mlp.experts.*.gate_up_proj.weight",
            "feed_forward.experts.down_proj": "mlp.experts.*.down_proj.weight",
        },
        transposed=frozenset({"mlp.experts.*.gate_up_proj", "mlp.experts.*.down_proj"}),
    )
