"""Phi-3 and Phi-4-mini: Mistral's shape with fused q/k/v and gate/up, partial rotary embedding and LongRoPE."""

from __future__ import annotations

import dataclasses

from genai.build.architectures import mistral
from genai.build.architectures.config import ConfigReader
from genai.build.source import JSON
from genai.build.spec import DecoderSpec

_DEFAULTS: dict[str, JSON] = {
    "original_max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "sliding_window": None,
}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Mistral's layers from a checkpoint that holds its products fused."""
    return dataclasses.replace(mistral.decoder_spec(config.with_defaults(_DEFAULTS)), fused_checkpoint=True)
