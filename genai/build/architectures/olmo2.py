"""OLMo 2: norms after the blocks instead of before, and a norm over all heads' queries and keys together."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.blocks import POST_NORM
from genai.build.architectures.config import ConfigReader
from genai.build.spec import DecoderSpec


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Llama's layers with post-norms and whole-width query/key norms."""
    config = config.with_defaults({"rms_norm_eps": 1e-5})
    attention = dataclasses.replace(config.attention(config.rotary()), qk_norm="all_heads")
    return config.decoder([attention] * config.num_layers, norms=POST_NORM)
