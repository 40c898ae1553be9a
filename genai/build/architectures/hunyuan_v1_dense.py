"""Hunyuan (dense): per-head query/key norms behind the rotary embedding, whose base a fixed alpha stretches."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.config import ConfigReader
from genai.build.spec import AttentionSpec, DecoderSpec
from genai.build.stored import StoredForm


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Llama's layers otherwise."""
    config = config.with_defaults({"rms_norm_eps": 1e-5})
    return config.decoder([attention(config)] * config.num_layers)


def attention(config: ConfigReader) -> AttentionSpec:
    """Norms of queries and keys behind the rotary embedding."""
    return dataclasses.replace(config.attention(config.rotary()), qk_norm="per_head", norms_rotated=True)


def stored_form(_: ConfigReader) -> StoredForm:
    """Norms of queries and keys by other names."""
    return StoredForm(
        inside={"self_attn.query_layernorm": "self_attn.q_norm", "self_attn.key_layernorm": "self_attn.k_norm"}
    )
