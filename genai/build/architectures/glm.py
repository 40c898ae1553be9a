"""GLM-4 (9B): neighbouring elements of half of each head are rotated, biases on q/k/v, gate and up in one matrix."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.blocks import PRE_NORM, NormNames
from genai.build.architectures.config import ConfigReader
from genai.build.source import JSON
from genai.build.spec import DecoderSpec

_DEFAULTS: dict[str, JSON] = {
    "attention_bias": True,
    "head_dim": 128,
    "partial_rotary_factor": 0.5,
    "rms_norm_eps": 0.00000015625,
}


def decoder_spec(config: ConfigReader, norms: NormNames = PRE_NORM) -> DecoderSpec:
    """Llama's layers otherwise; norms: GLM-4-0414 has more of them.

    Two keys are ours, for GGUF files: `fused_qkv` where q/k/v are one matrix, `rotates_halves` where the rows of
    queries and keys lie so that no neighbours are rotated.
    """
    config = config.with_defaults(_DEFAULTS)
    rotary = dataclasses.replace(config.rotary(), is_interleaved=not config.flag("rotates_halves"))
    attention = config.attention(rotary)
    is_fused = config.flag("fused_qkv")
    attention = dataclasses.replace(attention, is_fused=is_fused, biases=attention.biases - {"o_proj"})
    mlp = dataclasses.replace(config.mlp(), is_fused=True)
    return config.decoder([attention] * config.num_layers, [mlp] * config.num_layers, norms)
