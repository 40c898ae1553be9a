"""Qwen3: Qwen2 without biases, with a norm over each head's queries and keys."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.config import ConfigReader, with_windows
from genai.build.architectures.qwen2 import layer_windows
from genai.build.spec import DecoderSpec


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Qwen2's layers with per-head query/key norms."""
    attention = dataclasses.replace(config.attention(config.rotary()), qk_norm="per_head")
    return config.decoder(with_windows(attention, layer_windows(config)))
