"""Phi-3.5-MoE: LayerNorms with biases, and SparseMixer's two experts, each with a share of its own."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.config import ConfigReader, with_windows
from genai.build.architectures.experts import MIXTRAL_NAMES, experts
from genai.build.source import JSON
from genai.build.spec import DecoderSpec, RouterSpec
from genai.build.stored import StoredForm

_DEFAULTS: dict[str, JSON] = {"rms_norm_eps": 1e-5, "rope_theta": 1_000_000.0, "router_jitter_noise": 0.01}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Llama's attention with a window where the configuration has one; experts in every layer."""
    config = config.with_defaults(_DEFAULTS)
    router = RouterSpec(score="sparse_mixer", jitter=config.number("router_jitter_noise", 0.01), is_normalised=False)
    moe = experts(config, router, size_key="intermediate_size")
    attentions = with_windows(config.attention(config.rotary()), [config.window] * config.num_layers)
    decoder = config.decoder(attentions, [moe] * config.num_layers)
    norm = dataclasses.replace(decoder.norm, kind="layer")
    return dataclasses.replace(decoder, norm=norm, head_bias=config.flag("lm_head_bias"))


def stored_form(config: ConfigReader) -> StoredForm:
    """Mixtral's names; modules of transformers, which adapters are named after, call the router so."""
    return StoredForm(inside={**MIXTRAL_NAMES, "mlp.router": "mlp.gate"})
