"""FlexOlmo: OLMo 2's layers with OLMoE's experts."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.blocks import POST_NORM
from genai.build.architectures.config import ConfigReader
from genai.build.architectures.experts import experts
from genai.build.spec import DecoderSpec, RouterSpec


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Norms after the blocks and over all heads together; experts in every layer."""
    config = config.with_defaults({"rope_theta": 500_000.0})
    attention = dataclasses.replace(config.attention(config.rotary()), qk_norm="all_heads")
    moe = experts(config, RouterSpec(is_normalised=config.flag("norm_topk_prob")), size_key="intermediate_size")
    return config.decoder([attention] * config.num_layers, [moe] * config.num_layers, POST_NORM)
