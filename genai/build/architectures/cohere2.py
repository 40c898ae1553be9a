"""Command-R7B and Command A: Cohere's layers, of which those with a window rotate and the others have no positions."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.cohere import interleaved, parallel_decoder
from genai.build.architectures.config import ConfigReader
from genai.build.source import JSON
from genai.build.spec import DecoderSpec

_DEFAULTS: dict[str, JSON] = {
    "tie_word_embeddings": True,
    "rope_theta": 10_000.0,
    "sliding_window": 4096,
    "sliding_window_pattern": 4,
}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Kinds of layers from `layer_types` or, in older checkpoints, every `sliding_window_pattern`-th is a full one."""
    config = config.with_defaults(_DEFAULTS)
    pattern = config.size("sliding_window_pattern")
    slides = config.sliding_layers(lambda layer: (layer + 1) % pattern)
    nearby = dataclasses.replace(config.attention(interleaved(config.rotary())), sliding_window=config.window)
    everywhere = dataclasses.replace(nearby, rotary=None, sliding_window=None)
    return parallel_decoder(config, [nearby if does else everywhere for does in slides])
