"""ERNIE 4.5: Llama that rotates neighbouring elements, with biases everywhere or nowhere."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.config import ConfigReader
from genai.build.source import JSON
from genai.build.spec import DecoderSpec

_DEFAULTS: dict[str, JSON] = {
    "head_dim": 128,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500_000.0,
    "tie_word_embeddings": True,
    "use_bias": False,
}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Llama's layers; `use_bias` is about all their products."""
    config = config.with_defaults(_DEFAULTS)
    config = config.with_defaults({"attention_bias": config.flag("use_bias"), "mlp_bias": config.flag("use_bias")})
    attention = config.attention(dataclasses.replace(config.rotary(), is_interleaved=True))
    return config.decoder([attention] * config.num_layers)
