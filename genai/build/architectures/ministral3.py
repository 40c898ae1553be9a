"""Ministral 3: Mistral with YaRN, whose queries grow with the logarithm of their position."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.config import ConfigReader, with_windows
from genai.build.source import JSON
from genai.build.spec import DecoderSpec, TemperatureSpec

_DEFAULTS: dict[str, JSON] = {
    "head_dim": 128,
    "rms_norm_eps": 1e-5,
    "rope_parameters": {
        "rope_type": "yarn",
        "rope_theta": 1_000_000.0,
        "factor": 16.0,
        "original_max_position_embeddings": 16384,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "mscale": 1.0,
        "mscale_all_dim": 1.0,
        "llama_4_scaling_beta": 0.1,
    },
}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Llama's layers; from `original_max_position_embeddings` on, scores are sharper at each multiple of it."""
    config = config.with_defaults(_DEFAULTS)
    rope = config.inner("rope_parameters")
    temperature = None
    if weight := rope.number("llama_4_scaling_beta", 0.0):
        temperature = TemperatureSpec(weight=weight, period=rope.size("original_max_position_embeddings"))
    attention = dataclasses.replace(config.attention(config.rotary()), temperature=temperature)
    return config.decoder(with_windows(attention, [config.window] * config.num_layers))
