"""Mixtral: Mistral with experts instead of the feed-forward network."""

from __future__ import annotations

from genai.build.architectures.config import ConfigReader, with_windows
from genai.build.architectures.experts import MIXTRAL_NAMES, experts
from genai.build.spec import DecoderSpec, RouterSpec
from genai.build.stored import StoredForm


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Llama's attention, with a window where the configuration has one; experts in every layer."""
    config = config.with_defaults({"rope_theta": 1_000_000.0, "rms_norm_eps": 1e-5})
    attention = config.attention(config.rotary())
    moe = experts(config, RouterSpec(), size_key="intermediate_size")
    return config.decoder(with_windows(attention, [config.window] * config.num_layers), [moe] * config.num_layers)


def stored_form(config: ConfigReader) -> StoredForm:
    """Experts stand in `block_sparse_moe`, their products are w1, w3 and w2."""
    return StoredForm(inside=MIXTRAL_NAMES)
