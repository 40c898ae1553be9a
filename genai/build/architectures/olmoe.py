"""OLMoE: OLMo's norms over all heads together before Llama's layers, and experts whose shares do not sum to one."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.config import ConfigReader
from genai.build.architectures.experts import experts
from genai.build.spec import DecoderSpec, RouterSpec


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Queries, keys and values are clipped where the configuration has `clip_qkv`; experts in every layer."""
    config = config.with_defaults({"rms_norm_eps": 1e-5})
    attention = dataclasses.replace(
        config.attention(config.rotary()), qk_norm="all_heads", clip=config.optional_positive("clip_qkv")
    )
    moe = experts(config, RouterSpec(is_normalised=config.flag("norm_topk_prob")), size_key="intermediate_size")
    return config.decoder([attention] * config.num_layers, [moe] * config.num_layers)
