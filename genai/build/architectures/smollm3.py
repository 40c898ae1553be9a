"""SmolLM3: Llama in which every few layers have no position encoding."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.config import ConfigReader
from genai.build.architectures.qwen2 import layer_windows
from genai.build.spec import DecoderSpec


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Llama's layers, without rotary embedding where `no_rope_layers` holds 0."""
    num_layers = config.size("num_hidden_layers")
    interval = config.size("no_rope_layer_interval", 4)
    default = [int((layer + 1) % interval != 0) for layer in range(num_layers)]
    uses_rotary = config.items("no_rope_layers", num_layers) or default
    attention = config.attention(config.rotary())
    return config.decoder(
        [
            dataclasses.replace(attention, rotary=attention.rotary if rotates else None, sliding_window=window)
            for rotates, window in zip(uses_rotary, layer_windows(config), strict=True)
        ]
    )
