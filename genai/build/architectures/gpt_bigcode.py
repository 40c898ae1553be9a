"""StarCoder and SantaCoder: GPT-2 with one key and value head for all queries, and matrices the other way round."""

from __future__ import annotations

import dataclasses

from genai.build.architectures import gpt2
from genai.build.architectures.config import ConfigReader
from genai.build.source import JSON
from genai.build.spec import DecoderSpec
from genai.build.stored import StoredForm, grouped_rows

_DEFAULTS: dict[str, JSON] = {
    "hidden_act": "gelu_pytorch_tanh",
    "multi_query": True,
    "scale_attn_weights": True,
    "tie_word_embeddings": True,
}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Without `multi_query` each head has its own keys and values."""
    config = _usual(config)
    config.refuse("add_cross_attention")
    attention = config.attention(None)
    attention = dataclasses.replace(
        attention,
        is_fused=True,
        biases=frozenset({"qkv_proj", "o_proj"}),
        scale=attention.scale if config.flag("scale_attn_weights") else 1.0,
    )
    return gpt2.decoder(config, [attention] * config.num_layers)


def stored_form(config: ConfigReader) -> StoredForm:
    """GPT-2's names; with own keys and values each head's rows of q, k and v lie together."""
    config = _usual(config)
    heads, groups = config.size("num_attention_heads"), config.size("num_key_value_heads")
    form, rows = gpt2.stored_form(config), grouped_rows(groups, heads // groups, config.head_dim)
    return dataclasses.replace(form, transposed=frozenset(), rows={"self_attn.qkv_proj": rows})


def _usual(config: ConfigReader) -> ConfigReader:
    config = config.renamed(gpt2.NAMES).with_defaults(_DEFAULTS)
    return config.replaced({"num_key_value_heads": 1}) if config.flag("multi_query") else config.ungrouped()
