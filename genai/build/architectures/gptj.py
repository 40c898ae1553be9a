"""GPT-J: attention and an ungated MLP side by side, some of each head's neighbours rotated, biases on MLP and head."""

from __future__ import annotations

import dataclasses

from genai.build.architectures import gpt2
from genai.build.architectures.blocks import parallel
from genai.build.architectures.cohere import interleaved
from genai.build.architectures.config import ConfigReader
from genai.build.source import JSON
from genai.build.spec import DecoderSpec
from genai.build.stored import StoredForm

_DEFAULTS: dict[str, JSON] = {"hidden_act": "gelu_new", "rotary_dim": 64}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """`rotary_dim` elements of each head are rotated."""
    return decoder(config, is_fused=False)


def decoder(config: ConfigReader, *, is_fused: bool) -> DecoderSpec:
    """GPT-J's layers; is_fused: checkpoints have q/k/v as one matrix."""
    config = usual(config)
    attention = dataclasses.replace(config.attention(interleaved(config.rotary())), is_fused=is_fused)
    blocks = parallel([attention] * config.num_layers, [config.plain_mlp(has_biases=True)] * config.num_layers)
    return dataclasses.replace(config.decoder_of(blocks, config.layer_norm), head_bias=True)


def usual(config: ConfigReader) -> ConfigReader:
    """The configuration with the usual keys."""
    config = config.renamed(gpt2.NAMES).with_defaults(_DEFAULTS).ungrouped()
    return config.with_defaults({"partial_rotary_factor": config.size("rotary_dim") / config.head_dim})


def stored_form(_: ConfigReader) -> StoredForm:
    """GPT-2's names outside, its own inside."""
    outside = {f"transformer.{name}": ours for name, ours in gpt2.OUTSIDE.items()}
    return StoredForm(
        outside=outside,
        inside={
            "attn.q_proj": "self_attn.q_proj",
            "attn.k_proj": "self_attn.k_proj",
            "attn.v_proj": "self_attn.v_proj",
            "attn.out_proj": "self_attn.o_proj",
            "mlp.fc_in": "mlp.up_proj",
            "mlp.fc_out": "mlp.down_proj",
            "ln_1": "input_layernorm",
        },
        ignored=gpt2.MASKS,
    )
