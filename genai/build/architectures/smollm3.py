"""SmolLM3: Llama in which every few layers have no position encoding."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.config import ConfigReader
from genai.build.source import JSON
from genai.build.spec import DecoderSpec

_DEFAULTS: dict[str, JSON] = {"no_rope_layer_interval": 4, "rope_theta": 2_000_000.0, "tie_word_embeddings": True}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Llama's layers, without rotary embedding where `no_rope_layers` holds 0; those may have a window."""
    config = config.with_defaults(_DEFAULTS)
    interval = config.size("no_rope_layer_interval")
    default = [int((layer + 1) % interval != 0) for layer in range(config.num_layers)]
    uses_rotary = config.items("no_rope_layers", config.num_layers) or default
    has_window = config.flag("use_sliding_window") and config.optional_size("sliding_window") is not None
    windows = config.windows(lambda layer: has_window and not uses_rotary[layer])
    attention = config.attention(config.rotary())
    return config.decoder(
        [
            dataclasses.replace(
                attention,
                rotary=attention.rotary if rotates else None,
                sliding_window=window,
            )
            for rotates, window in zip(uses_rotary, windows, strict=True)
        ]
    )
