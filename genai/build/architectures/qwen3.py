"""Qwen3: Qwen2 without its biases, with a norm over each head's queries and keys."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.config import ConfigReader, with_windows
from genai.build.architectures.qwen2 import layer_windows
from genai.build.spec import DecoderSpec


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Llama's layers with Qwen2's windows and per-head query/key norms."""
    config = config.with_defaults({"head_dim": 128})
    attention = dataclasses.replace(config.attention(config.rotary()), qk_norm="per_head")
    return config.decoder(with_windows(attention, layer_windows(config)))
