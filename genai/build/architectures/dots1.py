"""dots.llm1: Qwen3's attention, dense first layers, then experts chosen by corrected sigmoid scores."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.config import ConfigReader, with_windows
from genai.build.architectures.experts import corrected_sigmoid, experts, feed_forwards, shared
from genai.build.source import JSON
from genai.build.spec import DecoderSpec

_DEFAULTS: dict[str, JSON] = {"sliding_window": 4096, "max_window_layers": 62}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Experts from `first_k_dense_replace` on, beside `n_shared_experts`; layers behind `max_window_layers` slide."""
    config = config.with_defaults(_DEFAULTS)
    attention = dataclasses.replace(config.attention(config.rotary()), qk_norm="per_head")
    first = config.size("max_window_layers") if config.has("sliding_window") else config.num_layers
    windows = config.windows(lambda layer: layer >= first)
    moe = experts(config, corrected_sigmoid(config))
    everyones = shared(config, moe.size * config.size("n_shared_experts"), "mlp.shared_experts")
    layers = range(config.count("first_k_dense_replace"), config.num_layers)
    return config.decoder(with_windows(attention, windows), feed_forwards(config, (moe, everyones), layers))
