"""Falcon: attention and an ungated MLP side by side, behind one norm (7B, 11B) or one each (40B), no biases."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.blocks import PRE_NORM, parallel, sequential
from genai.build.architectures.config import ConfigReader
from genai.build.source import JSON
from genai.build.spec import BlockSpec, DecoderSpec, Part
from genai.build.stored import StoredForm, grouped_rows
from genai.errors import UnsupportedModelError

_NAMES = {
    "activation": "hidden_act",
    "ffn_hidden_size": "intermediate_size",
    "layer_norm_epsilon": "layer_norm_eps",
    "n_head": "num_attention_heads",
    "n_head_kv": "num_kv_heads",
    "n_layer": "num_hidden_layers",
}
_DEFAULTS: dict[str, JSON] = {
    "hidden_act": "gelu",
    "max_position_embeddings": 2048,
    "multi_query": True,
    "parallel_attn": True,
    "tie_word_embeddings": True,
}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """`new_decoder_architecture` has groups of queries and, unless it says 1, two norms; else one group, or none."""
    config = _usual(config)
    if config.flag("alibi"):
        raise UnsupportedModelError("Falcon with alibi=true (Falcon-RW) is not supported; with rotary embedding it is")
    products = {"qkv_proj", "o_proj"} if config.flag("bias") else ()
    attention = dataclasses.replace(config.attention(config.rotary()), is_fused=True, biases=frozenset(products))
    mlp = config.plain_mlp(has_biases=config.flag("bias"))
    return config.decoder_of(
        _blocks(config, [attention] * config.num_layers, [mlp] * config.num_layers), config.layer_norm
    )


def _blocks(config: ConfigReader, attentions: list[Part], mlps: list[Part]) -> tuple[BlockSpec, ...]:
    if not config.flag("new_decoder_architecture"):
        return parallel(attentions, mlps) if config.flag("parallel_attn") else sequential(attentions, mlps, PRE_NORM)
    if config.size("num_ln_in_parallel_attn", 2) == 1:
        return parallel(attentions, mlps)
    return parallel(attentions, mlps, ("attention_layernorm", "input_layernorm"))


def stored_form(config: ConfigReader) -> StoredForm:
    """Rows of q, k and v lie together, group by group."""
    config = _usual(config)
    heads, groups = config.size("num_attention_heads"), config.size("num_key_value_heads")
    outside = {"word_embeddings": "model.embed_tokens", "h": "model.layers", "ln_f": "model.norm"}
    return StoredForm(
        outside={f"transformer.{name}": ours for name, ours in outside.items()},
        inside={
            "self_attention.query_key_value": "self_attn.qkv_proj",
            "self_attention.dense": "self_attn.o_proj",
            "mlp.dense_h_to_4h": "mlp.up_proj",
            "mlp.dense_4h_to_h": "mlp.down_proj",
            "ln_attn": "attention_layernorm",
            "ln_mlp": "input_layernorm",
        },
        rows={"self_attn.qkv_proj": grouped_rows(groups, heads // groups, config.head_dim)},
    )


def _usual(config: ConfigReader) -> ConfigReader:
    """The configuration with the usual keys."""
    config = config.renamed(_NAMES).with_defaults(_DEFAULTS)
    heads = config.size("num_attention_heads")
    groups = 1 if config.flag("multi_query") else heads
    if config.flag("new_decoder_architecture"):
        groups = config.size("num_kv_heads", heads)
    return config.replaced({"num_key_value_heads": groups})
