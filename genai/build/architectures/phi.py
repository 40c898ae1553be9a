"""Phi-1 and Phi-2: attention and an ungated MLP side by side, biases everywhere and on the head, partial rotary."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.blocks import parallel
from genai.build.architectures.config import ConfigReader
from genai.build.source import JSON
from genai.build.spec import DecoderSpec
from genai.build.stored import StoredForm

_DEFAULTS: dict[str, JSON] = {"hidden_act": "gelu_new", "partial_rotary_factor": 0.5}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """`fused_qkv` is a key of ours: set for GGUF files that hold q/k/v as one."""
    config = config.with_defaults(_DEFAULTS)
    is_fused = config.flag("fused_qkv")
    attention = dataclasses.replace(
        config.attention(config.rotary()),
        qk_norm="per_head" if config.flag("qk_layernorm") else "none",
        is_fused=is_fused,
        biases=frozenset({"o_proj"} | ({"qkv_proj"} if is_fused else {"q_proj", "k_proj", "v_proj"})),
    )
    blocks = parallel([attention] * config.num_layers, [config.plain_mlp(has_biases=True)] * config.num_layers)
    return dataclasses.replace(config.decoder_of(blocks, config.layer_norm), head_bias=True)


def stored_form(_: ConfigReader) -> StoredForm:
    """Names of its own."""
    return StoredForm(
        outside={"model.final_layernorm": "model.norm"},
        inside={
            "self_attn.dense": "self_attn.o_proj",
            "self_attn.q_layernorm": "self_attn.q_norm",
            "self_attn.k_layernorm": "self_attn.k_norm",
            "mlp.fc1": "mlp.up_proj",
            "mlp.fc2": "mlp.down_proj",
        },
    )
