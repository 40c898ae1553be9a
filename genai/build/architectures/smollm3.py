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
    kinds = config.layer_types(
        ["sliding_attention" if has_window and not rotates else "full_attention" for rotates in uses_rotary]
    )
    attention = config.attention(config.rotary())
    return config.decoder(
        [
            dataclasses.replace(
                attention,
                rotary=attention.rotary if rotates else None,
                sliding_window=config.window if kind == "sliding_attention" else None,
            )
            for rotates, kind in zip(uses_rotary, kinds, strict=True)
        ]
    )
