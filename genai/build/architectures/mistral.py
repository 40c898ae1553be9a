"""Mistral: Llama with a sliding window on every layer, where the configuration has one."""

from __future__ import annotations

from genai.build.architectures.config import ConfigReader, with_windows
from genai.build.spec import DecoderSpec


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Llama's layers, each with the configuration's window: a null means none, a missing key the class's default."""
    config = config.with_defaults({"sliding_window": 4096})
    return config.decoder(with_windows(config.attention(config.rotary()), [config.window] * config.num_layers))
