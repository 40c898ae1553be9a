"""Gemma 3 (text): norms on both sides of each block, per-head query/key norms, windows on most layers.

What a published configuration leaves out is filled in where it is read (`checkpoint_config.py`).
"""

from __future__ import annotations

import dataclasses

from genai.build.architectures.config import ConfigReader
from genai.build.architectures.gemma2 import decoder_of
from genai.build.spec import DecoderSpec


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Sliding layers rotate with a local base, full ones with the global base and its scaling.

    Without `layer_types`, as in older checkpoints, every `sliding_window_pattern`-th layer is a full one.
    """
    config = config.with_defaults({"rope_theta": 1_000_000.0, "sliding_window_pattern": 6})
    config.refuse("use_bidirectional_attention")
    everywhere = dataclasses.replace(
        config.attention(config.rotary("full_attention")),
        scale=config.positive("query_pre_attn_scalar", config.head_dim) ** -0.5,
        softcap=config.optional_positive("attn_logit_softcapping"),
        qk_norm="per_head",
    )
    nearby = dataclasses.replace(
        everywhere, rotary=config.rotary("sliding_attention", "rope_local_base_freq"), sliding_window=config.window
    )
    pattern = config.size("sliding_window_pattern")
    slides = config.sliding_layers(lambda layer: (layer + 1) % pattern)
    return decoder_of(config, [nearby if does else everywhere for does in slides])
