"""Qwen2 and Qwen2.5: Llama with biases on q/k/v and, optionally, a sliding window on the later layers."""

from __future__ import annotations

from genai.build.architectures.config import ConfigReader, with_windows
from genai.build.spec import DecoderSpec


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Llama's layers with the configuration's windows."""
    return config.decoder(with_windows(config.attention(config.rotary()), layer_windows(config)))


def layer_windows(config: ConfigReader) -> list[int | None]:
    """Each layer's window: none, unless `use_sliding_window` is set."""
    num_layers = config.size("num_hidden_layers")
    if not config.flag("use_sliding_window"):
        return [None] * num_layers
    first = config.size("max_window_layers", num_layers)
    kinds = ["sliding_attention" if layer >= first else "full_attention" for layer in range(num_layers)]
    return config.windows(config.optional_size("sliding_window"), kinds)
