"""EXAONE 4: norms after the blocks, per-head query/key norms, no position encoding on layers without a window."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.blocks import POST_NORM
from genai.build.architectures.config import ConfigReader
from genai.build.spec import DecoderSpec


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Where the configuration has no window (the 1.2B), all layers are alike and have position encoding."""
    config = config.with_defaults({"rms_norm_eps": 1e-5, "sliding_window": 4096, "sliding_window_pattern": 4})
    has_windows = config.optional_size("sliding_window") is not None
    kinds = config.layer_types(_pattern(config) if has_windows else ["full_attention"] * config.num_layers)
    attention = dataclasses.replace(config.attention(config.rotary()), qk_norm="per_head")
    nearby = dataclasses.replace(attention, sliding_window=config.window)
    everywhere = dataclasses.replace(attention, rotary=None) if has_windows else attention
    return config.decoder([nearby if kind == "sliding_attention" else everywhere for kind in kinds], norms=POST_NORM)


def _pattern(config: ConfigReader) -> list[str]:
    """Each layer's kind by `sliding_window_pattern`: every n-th is a full one, or "LLLG", letters that repeat."""
    letters = config.letters("sliding_window_pattern", "LG")
    if letters is None:
        period = config.size("sliding_window_pattern")
        letters = "L" * (period - 1) + "G"
    return [
        "sliding_attention" if letters[layer % len(letters)] == "L" else "full_attention"
        for layer in range(config.num_layers)
    ]
