"""Qwen3 with experts: Qwen3's attention, and many small experts instead of the feed-forward network."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.config import ConfigReader, with_windows
from genai.build.architectures.experts import experts, feed_forwards, sparse_layers
from genai.build.spec import DecoderSpec, RouterSpec


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Norms over each head's queries and keys; the window, where it is used, is that of all layers."""
    config = config.with_defaults({"sliding_window": 4096})
    attention = dataclasses.replace(config.attention(config.rotary()), qk_norm="per_head")
    window = config.window if config.flag("use_sliding_window") else None
    moe = experts(config, RouterSpec(is_normalised=config.flag("norm_topk_prob")))
    mlps = feed_forwards(config, moe, sparse_layers(config))
    return config.decoder(with_windows(attention, [window] * config.num_layers), mlps)
