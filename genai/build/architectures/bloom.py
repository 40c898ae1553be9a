"""BLOOM: scores that fall with the distance (ALiBi), a norm behind the embedding, norms and products with biases."""

from __future__ import annotations

import dataclasses
import math

from genai.build.architectures.blocks import PRE_NORM, sequential
from genai.build.architectures.config import ConfigReader
from genai.build.source import JSON
from genai.build.spec import DecoderSpec
from genai.build.stored import StoredForm, grouped_rows

_NAMES = {
    "layer_norm_epsilon": "layer_norm_eps",
    "n_embed": "hidden_size",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
    "seq_length": "max_position_embeddings",
}
_DEFAULTS: dict[str, JSON] = {"max_position_embeddings": 2048, "tie_word_embeddings": True}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """The context is the one it was trained with; the MLP is always four times as wide as the stream."""
    config = _usual(config)
    config.refuse("apply_residual_connection_post_layernorm")
    attention = config.attention(None)
    attention = dataclasses.replace(
        attention, is_fused=True, biases=frozenset({"qkv_proj", "o_proj"}), alibi=slopes(attention.num_heads, 8.0)
    )
    mlps = [config.plain_mlp(has_biases=True)] * config.num_layers
    blocks = sequential([attention] * config.num_layers, mlps, PRE_NORM)
    return dataclasses.replace(config.decoder_of(blocks, config.layer_norm), embedding_norm="model.embedding_norm")


def slopes(num_heads: int, largest: float) -> tuple[float, ...]:
    """Each head's slope: 2 to the power of so many steps up to -largest; every second of twice as many first.

    (arXiv 2108.12409, and the code published with it for numbers of heads that are no power of two.)
    """
    steps = 2 ** math.ceil(math.log2(num_heads))
    every = [2.0 ** (-largest * (step + 1) / steps) for step in range(steps)]
    return tuple(every if steps == num_heads else [*every[1::2], *every[::2]][:num_heads])


def stored_form(config: ConfigReader) -> StoredForm:
    """Each head's rows of q, k and v lie together; published checkpoints leave `transformer.` out."""
    config = _usual(config)
    outside = {
        "word_embeddings": "model.embed_tokens",
        "word_embeddings_layernorm": "model.embedding_norm",
        "h": "model.layers",
        "ln_f": "model.norm",
    }
    return StoredForm(
        outside=outside | {f"transformer.{name}": ours for name, ours in outside.items()},
        inside={
            "self_attention.query_key_value": "self_attn.qkv_proj",
            "self_attention.dense": "self_attn.o_proj",
            "mlp.dense_h_to_4h": "mlp.up_proj",
            "mlp.dense_4h_to_h": "mlp.down_proj",
        },
        rows={"self_attn.qkv_proj": grouped_rows(config.size("num_attention_heads"), 1, config.head_dim)},
    )


def _usual(config: ConfigReader) -> ConfigReader:
    config = config.renamed(_NAMES).with_defaults(_DEFAULTS).ungrouped()
    return config.replaced({"hidden_act": "gelu_pytorch_tanh", "intermediate_size": None})
