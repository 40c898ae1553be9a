"""MPT: scores that fall with the distance (ALiBi), norms without bias, an ungated MLP, q/k/v in one matrix."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.blocks import PRE_NORM, sequential
from genai.build.architectures.bloom import slopes
from genai.build.architectures.config import ConfigReader
from genai.build.source import JSON
from genai.build.spec import DecoderSpec
from genai.build.stored import StoredForm
from genai.errors import UnsupportedModelError

_NAMES = {
    "d_model": "hidden_size",
    "layer_norm_epsilon": "layer_norm_eps",
    "max_seq_len": "max_position_embeddings",
    "n_heads": "num_attention_heads",
    "n_layers": "num_hidden_layers",
}
_DEFAULTS: dict[str, JSON] = {"expansion_ratio": 4, "max_position_embeddings": 2048, "tie_word_embeddings": True}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """What attention needs stands in `attn_config`."""
    config = config.renamed(_NAMES).with_defaults(_DEFAULTS).ungrouped()
    config.refuse("logit_scale")
    inner = config.inner("attn_config").with_defaults({"alibi": True})
    for key in ("prefix_lm", "qk_ln"):
        inner.refuse(key)
    if not inner.flag("alibi"):
        raise UnsupportedModelError("MPT with learned positions (attn_config.alibi=false) is not supported")
    attention = config.attention(None)
    attention = dataclasses.replace(
        attention,
        is_fused=True,
        alibi=slopes(attention.num_heads, inner.positive("alibi_bias_max", 8.0)),
        clip=inner.optional_positive("clip_qkv"),
        scale=inner.positive("softmax_scale", attention.scale),
    )
    size = config.size("hidden_size") * config.size("expansion_ratio")
    config = config.replaced({"hidden_act": "gelu", "intermediate_size": size})
    mlps = [config.plain_mlp(has_biases=False)] * config.num_layers
    return config.decoder_of(sequential([attention] * config.num_layers, mlps, PRE_NORM), config.layer_norm)


def stored_form(_: ConfigReader) -> StoredForm:
    """Names of its own."""
    outside = {"wte": "model.embed_tokens", "blocks": "model.layers", "norm_f": "model.norm"}
    return StoredForm(
        outside={f"transformer.{name}": ours for name, ours in outside.items()},
        inside={
            "attn.Wqkv": "self_attn.qkv_proj",
            "attn.out_proj": "self_attn.o_proj",
            "ffn.up_proj": "mlp.up_proj",
            "ffn.down_proj": "mlp.down_proj",
            "norm_1": "input_layernorm",
            "norm_2": "post_attention_layernorm",
        },
    )
