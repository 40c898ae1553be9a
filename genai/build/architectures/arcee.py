"""Arcee (AFM): Llama with an ungated feed-forward network, whose activation is the square of ReLU."""

from __future__ import annotations

from genai.build.architectures.config import ConfigReader
from genai.build.spec import DecoderSpec


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Llama's attention, `down(relu(up(x))²)`."""
    config = config.with_defaults({"hidden_act": "relu2", "rms_norm_eps": 1e-5})
    attention = config.attention(config.rotary())
    mlp = config.plain_mlp(has_biases=config.flag("mlp_bias"))
    return config.decoder([attention] * config.num_layers, [mlp] * config.num_layers)
