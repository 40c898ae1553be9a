"""InternLM3: Llama, whose configuration says of biases in other words."""

from __future__ import annotations

from genai.build.architectures import llama
from genai.build.architectures.config import ConfigReader
from genai.build.spec import DecoderSpec


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Llama's layers; heads have 128 elements where nothing else is said."""
    config = config.renamed({"qkv_bias": "attention_bias", "bias": "mlp_bias"})
    return llama.decoder_spec(config.with_defaults({"head_dim": 128, "rms_norm_eps": 1e-5}))
