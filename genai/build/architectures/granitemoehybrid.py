"""Granite 4: Mamba-2 in most layers, attention mostly without positions; experts beside one for all, or none."""

from __future__ import annotations

import dataclasses

from genai.build.architectures import granite, granitemoeshared
from genai.build.architectures.blocks import FeedForward
from genai.build.architectures.config import ConfigReader
from genai.build.architectures.experts import experts, shared
from genai.build.architectures.mamba import kinds_of, mamba2
from genai.build.spec import DecoderSpec, Part, RouterSpec

stored_form = granitemoeshared.stored_form


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Granite's multipliers; `position_embedding_type` says whether attention rotates.

    One key is ours, for GGUF files: `fused_shared_mlp` is false where the common one's gate and up are apart.
    """
    config = config.with_defaults({"fused_shared_mlp": True, "shared_intermediate_size": 1024})
    mlp: Part = dataclasses.replace(
        shared(config, config.size("shared_intermediate_size"), granitemoeshared.MODULE),
        is_fused=config.flag("fused_shared_mlp"),
    )
    feed_forward: FeedForward = mlp
    if config.count("num_local_experts", 8):
        feed_forward = (experts(config, RouterSpec(), size_key="intermediate_size"), mlp)
    return granite.decoder_of(config, [feed_forward] * config.num_layers, mixers=_mixers(config))


def _mixers(config: ConfigReader) -> list[Part]:
    types = config.items("layer_types", config.num_layers) or ["linear_attention"] * config.num_layers
    rotates = config.has("position_embedding_type") and config.text("position_embedding_type") == "rope"
    parts: dict[str, Part] = {"full_attention": granite.attention(config, config.rotary() if rotates else None)}
    if any(kind in ("mamba", "linear_attention") for kind in types):
        parts["linear_attention"] = mamba2(config, config.size("mamba_expand", 2) * config.size("hidden_size"))
    return kinds_of(parts, types)
