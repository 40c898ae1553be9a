"""Qwen2 and Qwen2.5: Llama with biases on q/k/v and, optionally, a sliding window on the later layers."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.config import ConfigReader, with_windows
from genai.build.spec import DecoderSpec


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Llama's layers with the configuration's windows, and biases that no key is needed for."""
    attention = config.attention(config.rotary())
    attention = dataclasses.replace(attention, biases=frozenset({"q_proj", "k_proj", "v_proj"}))
    return config.decoder(with_windows(attention, layer_windows(config)))


def layer_windows(config: ConfigReader) -> list[int | None]:
    """Each layer's window: none, unless `use_sliding_window` is set."""
    if not config.flag("use_sliding_window"):
        return [None] * config.num_layers
    config = config.with_defaults({"sliding_window": 4096, "max_window_layers": 28})
    first = config.size("max_window_layers", 28)
    return config.windows(lambda layer: layer >= first)
