"""Apertus: an ungated feed-forward network with the learned activation xIELU, and per-head query/key norms."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.config import ConfigReader
from genai.build.source import JSON
from genai.build.spec import DecoderSpec
from genai.build.stored import StoredForm

_LLAMA3: dict[str, JSON] = {
    "rope_type": "llama3",
    "rope_theta": 12_000_000.0,
    "factor": 8.0,
    "original_max_position_embeddings": 8192,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Llama's layers otherwise; a configuration that says nothing about rotary scaling means Llama 3's."""
    config = config.with_defaults({"hidden_act": "xielu", "rms_norm_eps": 1e-5, "rope_theta": 12_000_000.0})
    if not config.has("rope_scaling"):
        config = config.with_defaults({"rope_parameters": _LLAMA3})
    attention = dataclasses.replace(config.attention(config.rotary()), qk_norm="per_head")
    mlp = config.plain_mlp(has_biases=config.flag("mlp_bias"))
    return config.decoder([attention] * config.num_layers, [mlp] * config.num_layers)


def stored_form(_: ConfigReader) -> StoredForm:
    """Norms by other names."""
    return StoredForm(
        inside={"attention_layernorm": "input_layernorm", "feedforward_layernorm": "post_attention_layernorm"}
    )
