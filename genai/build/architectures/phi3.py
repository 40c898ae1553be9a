"""Phi-3 and Phi-4-mini: Mistral's shape with fused q/k/v and gate/up, partial rotary embedding and LongRoPE."""

from __future__ import annotations

import dataclasses

from genai.build.architectures import mistral
from genai.build.architectures.config import ConfigReader
from genai.build.spec import DecoderSpec


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Mistral's layers from a checkpoint that holds its products fused."""
    return dataclasses.replace(mistral.decoder_spec(config), fused_checkpoint=True)
