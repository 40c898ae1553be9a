"""GPT-2: learned positions, norms and products with biases, q/k/v in one matrix, an ungated MLP."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from genai.build.architectures.blocks import PRE_NORM, sequential
from genai.build.architectures.config import ConfigReader
from genai.build.source import JSON
from genai.build.spec import AttentionSpec, DecoderSpec
from genai.build.stored import StoredForm

NAMES = {
    "activation_function": "hidden_act",
    "layer_norm_epsilon": "layer_norm_eps",
    "n_embd": "hidden_size",
    "n_head": "num_attention_heads",
    "n_inner": "intermediate_size",
    "n_layer": "num_hidden_layers",
    "n_positions": "max_position_embeddings",
}
"""Its configuration's keys, and the usual ones."""
OUTSIDE = {"wte": "model.embed_tokens", "wpe": "model.embed_positions", "h": "model.layers", "ln_f": "model.norm"}
INSIDE = {
    "attn.c_attn": "self_attn.qkv_proj",
    "attn.c_proj": "self_attn.o_proj",
    "mlp.c_fc": "mlp.up_proj",
    "mlp.c_proj": "mlp.down_proj",
    "ln_1": "input_layernorm",
    "ln_2": "post_attention_layernorm",
}
"""Its checkpoints' names, and ours."""
MASKS = frozenset({"attn.bias", "attn.masked_bias"})
_DEFAULTS: dict[str, JSON] = {"hidden_act": "gelu_new", "scale_attn_weights": True, "tie_word_embeddings": True}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Scores may be scaled by one over the layer's number too."""
    config = config.renamed(NAMES).with_defaults(_DEFAULTS).ungrouped()
    config.refuse("add_cross_attention")
    attention = dataclasses.replace(config.attention(None), is_fused=True, biases=frozenset({"qkv_proj", "o_proj"}))
    scale = attention.scale if config.flag("scale_attn_weights") else 1.0
    is_by_layer = config.flag("scale_attn_by_inverse_layer_idx")
    scales = [scale / (layer + 1 if is_by_layer else 1) for layer in range(config.num_layers)]
    return decoder(config, [dataclasses.replace(attention, scale=each) for each in scales])


def decoder(config: ConfigReader, attentions: Sequence[AttentionSpec]) -> DecoderSpec:
    """GPT-2's layers with these attentions."""
    blocks = sequential(attentions, [config.plain_mlp(has_biases=True)] * len(attentions), PRE_NORM)
    return dataclasses.replace(config.decoder_of(blocks, config.layer_norm), positions=config.learned_positions())


def stored_form(_: ConfigReader) -> StoredForm:
    """Matrices are stored as [in, out]; with the head's model around it, names begin with `transformer.`."""
    return StoredForm(
        outside=OUTSIDE | {f"transformer.{name}": ours for name, ours in OUTSIDE.items()},
        inside=INSIDE,
        ignored=MASKS,
        transposed=frozenset({"self_attn.qkv_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"}),
    )
