"""Llama, and what shares its shape (SmolLM2, TinyLlama, …)."""

from __future__ import annotations

from genai.build.architectures.config import ConfigReader
from genai.build.spec import DecoderSpec


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Pre-norm layers, grouped heads, SiLU-gated MLP."""
    return config.decoder([config.attention(config.rotary())] * config.num_layers)
