"""Jais 2: Llama with layer norms, biases everywhere, and an ungated feed-forward network of squares."""

from __future__ import annotations

from genai.build.architectures.blocks import PRE_NORM, sequential
from genai.build.architectures.config import ConfigReader
from genai.build.source import JSON
from genai.build.spec import DecoderSpec

_DEFAULTS: dict[str, JSON] = {"hidden_act": "relu2", "attention_bias": True, "mlp_bias": True}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """`down(relu(up(x))²)`, between norms by mean and variance."""
    config = config.with_defaults(_DEFAULTS)
    attentions = [config.attention(config.rotary())] * config.num_layers
    mlps = [config.plain_mlp(has_biases=config.flag("mlp_bias"))] * config.num_layers
    return config.decoder_of(sequential(attentions, mlps, PRE_NORM), config.layer_norm)
