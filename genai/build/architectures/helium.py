"""Helium: Llama that rotates neighbouring elements."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.config import ConfigReader
from genai.build.spec import DecoderSpec


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Llama's layers; `attention_bias` is about q/k/v only."""
    config = config.with_defaults({"head_dim": 128, "rms_norm_eps": 1e-8, "rope_theta": 100_000.0})
    attention = config.attention(dataclasses.replace(config.rotary(), is_interleaved=True))
    attention = dataclasses.replace(attention, biases=attention.biases - {"o_proj"})
    return config.decoder([attention] * config.num_layers)
