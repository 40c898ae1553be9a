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
    letters = _letters(config) if has_windows else "G"
    slides = config.sliding_layers(lambda layer: letters[layer % len(letters)] == "L")
    attention = dataclasses.replace(config.attention(config.rotary()), qk_norm="per_head")
    nearby = dataclasses.replace(attention, sliding_window=config.window)
    everywhere = dataclasses.replace(attention, rotary=None) if has_windows else attention
    return config.decoder([nearby if does else everywhere for does in slides], norms=POST_NORM)


def _letters(config: ConfigReader) -> str:
    """`sliding_window_pattern`: "LLLG", letters that repeat, or that every n-th layer is a full one."""
    letters = config.letters("sliding_window_pattern", "LG")
    return "L" * (config.size("sliding_window_pattern") - 1) + "G" if letters is None else letters
