"""HyperCLOVA X SEED Think: Granite with norms on both sides of each block, and logits that are multiplied."""

from __future__ import annotations

import dataclasses

from genai.build.architectures import granite
from genai.build.architectures.blocks import PRE_NORM, NormNames
from genai.build.architectures.config import ConfigReader
from genai.build.spec import DecoderSpec

_NORMS = NormNames(
    attention_in="input_layernorm",
    attention_out="post_norm1",
    mlp_in="post_attention_layernorm",
    mlp_out="post_norm2",
)


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """`use_post_norm` says whether there are norms behind blocks; `logits_scaling` multiplies, unlike Granite's."""
    config = config.with_defaults({"use_post_norm": True})
    if not config.has("attention_multiplier"):
        config = config.replaced({"attention_multiplier": config.head_dim**-0.5})
    mlps = [config.mlp()] * config.num_layers
    decoder = granite.decoder_of(config, mlps, _NORMS if config.flag("use_post_norm") else PRE_NORM)
    return dataclasses.replace(decoder, logits_scale=config.positive("logits_scaling", 1.0))
