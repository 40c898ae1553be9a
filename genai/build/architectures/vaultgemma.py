"""VaultGemma: Gemma 2 without the norms behind its blocks."""

from __future__ import annotations

from genai.build.architectures import gemma2
from genai.build.architectures.blocks import NormNames
from genai.build.architectures.config import ConfigReader
from genai.build.spec import DecoderSpec

_NORMS = NormNames(attention_in="input_layernorm", attention_out=None, mlp_in="pre_feedforward_layernorm", mlp_out=None)


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Gemma 2's layers otherwise."""
    return gemma2.decoder_spec(config, _NORMS)
