"""Seed-OSS: Llama with biases on q/k/v, whose heads together are wider than the hidden size."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.config import ConfigReader
from genai.build.spec import DecoderSpec


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Llama's layers; `attention_out_bias` is the output product's alone."""
    config = config.with_defaults({"attention_bias": True, "head_dim": 128})
    attention = config.attention(config.rotary())
    biases = attention.biases - {"o_proj"} | ({"o_proj"} if config.flag("attention_out_bias") else frozenset())
    return config.decoder([dataclasses.replace(attention, biases=biases)] * config.num_layers)
