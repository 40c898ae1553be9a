"""Mistral: Llama with a sliding window on every layer, where the configuration has one."""

from __future__ import annotations

from genai.build.architectures.config import ConfigReader, with_windows
from genai.build.spec import DecoderSpec


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Llama's layers, each with the configuration's window."""
    windows = [config.optional_size("sliding_window")] * config.size("num_hidden_layers")
    return config.decoder(with_windows(config.attention(config.rotary()), windows))
