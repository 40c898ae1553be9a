"""OLMo 3: OLMo 2 with a window on three of four layers, and rotary scaling on the fourth only."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.blocks import POST_NORM
from genai.build.architectures.config import ConfigReader
from genai.build.spec import DecoderSpec


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Post-norms and whole-width query/key norms; windows where `layer_types` says so, or in all but each fourth."""
    config = config.with_defaults({"rms_norm_eps": 1e-5, "rope_theta": 500_000.0, "sliding_window": 4096})
    config = config.with_defaults({"window_rope_theta": config.number("rope_theta", 500_000.0)})
    everywhere = dataclasses.replace(config.attention(config.rotary("full_attention")), qk_norm="all_heads")
    nearby = dataclasses.replace(
        everywhere, rotary=config.rotary("sliding_attention", "window_rope_theta"), sliding_window=config.window
    )
    slides = config.sliding_layers(lambda layer: (layer + 1) % 4)
    return config.decoder([nearby if does else everywhere for does in slides], norms=POST_NORM)
