"""GLM-4-0414 and GLM-Z1: GLM-4 with norms on both sides of each block."""

from __future__ import annotations

from genai.build.architectures import glm
from genai.build.architectures.blocks import NormNames
from genai.build.architectures.config import ConfigReader
from genai.build.spec import DecoderSpec

_NORMS = NormNames(
    attention_in="input_layernorm",
    attention_out="post_self_attn_layernorm",
    mlp_in="post_attention_layernorm",
    mlp_out="post_mlp_layernorm",
)


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """GLM-4's layers with two more norms each."""
    return glm.decoder_spec(config, _NORMS)
