"""Ministral (2410): Mistral with a window on some layers."""

from __future__ import annotations

from genai.build.architectures.config import ConfigReader, with_windows
from genai.build.spec import DecoderSpec


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Without `layer_types` all layers have the configuration's window, if it has one."""
    config = config.with_defaults({"sliding_window": 4096})
    windows = config.windows(lambda _: config.has("sliding_window"))
    return config.decoder(with_windows(config.attention(config.rotary()), windows))
