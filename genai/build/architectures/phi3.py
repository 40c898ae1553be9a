"""Phi-3 and Phi-4-mini: Mistral's shape with fused q/k/v and gate/up, partial rotary embedding and LongRoPE."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.config import ConfigReader, with_windows
from genai.build.source import JSON
from genai.build.spec import DecoderSpec

_DEFAULTS: dict[str, JSON] = {
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "sliding_window": None,
}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """A window on every layer, where the configuration has one, and a checkpoint that holds its products fused."""
    config = config.with_defaults(_DEFAULTS)
    attention = dataclasses.replace(config.attention(config.rotary()), is_fused=True)
    mlp = dataclasses.replace(config.mlp(), is_fused=True)
    return config.decoder(with_windows(attention, [config.window] * config.num_layers), [mlp] * config.num_layers)
