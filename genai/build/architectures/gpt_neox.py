"""GPT-NeoX and Pythia: attention and an ungated MLP side by side with a norm each, partial rotary, exact GELU."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.blocks import PRE_NORM, parallel, sequential
from genai.build.architectures.config import ConfigReader
from genai.build.source import JSON
from genai.build.spec import DecoderSpec
from genai.build.stored import StoredForm, grouped_rows

_NAMES = {"rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor"}
_DEFAULTS: dict[str, JSON] = {
    "attention_bias": True,
    "hidden_act": "gelu",
    "partial_rotary_factor": 0.25,
    "use_parallel_residual": True,
}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Without `use_parallel_residual` one part after the other."""
    config = config.renamed(_NAMES).with_defaults(_DEFAULTS).ungrouped()
    attention = dataclasses.replace(
        config.attention(config.rotary()),
        is_fused=True,
        biases=frozenset({"qkv_proj", "o_proj"} if config.flag("attention_bias") else ()),
    )
    attentions, mlps = [attention] * config.num_layers, [config.plain_mlp(has_biases=True)] * config.num_layers
    if config.flag("use_parallel_residual"):
        blocks = parallel(attentions, mlps, ("input_layernorm", "post_attention_layernorm"))
    else:
        blocks = sequential(attentions, mlps, PRE_NORM)
    return config.decoder_of(blocks, config.layer_norm)


def stored_form(config: ConfigReader) -> StoredForm:
    """Each head's rows of q, k and v lie together."""
    return StoredForm(
        outside={
            "gpt_neox.embed_in": "model.embed_tokens",
            "gpt_neox.layers": "model.layers",
            "gpt_neox.final_layer_norm": "model.norm",
            "embed_out": "lm_head",
        },
        inside={
            "attention.query_key_value": "self_attn.qkv_proj",
            "attention.dense": "self_attn.o_proj",
            "mlp.dense_h_to_4h": "mlp.up_proj",
            "mlp.dense_4h_to_h": "mlp.down_proj",
        },
        ignored=frozenset({"attention.bias", "attention.masked_bias"}),
        rows={"self_attn.qkv_proj": grouped_rows(config.size("num_attention_heads"), 1, config.head_dim)},
    )
