"""Gemma: Llama with one wide head size, a scaled embedding, GELU's gate, and norms stored as `w - 1`."""

from __future__ import annotations

from genai.build.architectures.blocks import PRE_NORM
from genai.build.architectures.config import ConfigReader
from genai.build.architectures.gemma2 import decoder_of
from genai.build.source import JSON
from genai.build.spec import DecoderSpec

_DEFAULTS: dict[str, JSON] = {"head_dim": 256, "hidden_act": "gelu", "tie_word_embeddings": True}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """The first configurations say "gelu" and mean the approximation by tanh."""
    config = config.with_defaults(_DEFAULTS)
    config.refuse("use_bidirectional_attention")
    if config.text("hidden_act") == "gelu":
        config = config.replaced({"hidden_act": "gelu_pytorch_tanh"})
    config = config.replaced({"hidden_activation": None})  # what transformers does not read here
    return decoder_of(config, [config.attention(config.rotary())] * config.num_layers, PRE_NORM)
