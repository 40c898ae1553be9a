"""LFM2 and LFM2.5: most layers are short convolutions between two gates, a few attend, with norms over each head."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from genai.build.architectures.blocks import FeedForward
from genai.build.architectures.config import ConfigReader
from genai.build.source import JSON
from genai.build.spec import DecoderSpec, Part, ShortConvSpec
from genai.build.stored import StoredForm

_DEFAULTS: dict[str, JSON] = {"norm_eps": 1e-5, "rope_theta": 1_000_000.0, "tie_word_embeddings": True}
_BLOCK_DEFAULTS: dict[str, JSON] = {"intermediate_size": 12288, "block_auto_adjust_ff_dim": True}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Dense feed-forward networks in all layers."""
    config = config.with_defaults(_BLOCK_DEFAULTS).renamed({"block_ff_dim": "intermediate_size"})
    mlp = dataclasses.replace(config.mlp(), size=_mlp_size(config))
    return decoder_of(config, [mlp] * config.num_layers)


def stored_form(config: ConfigReader) -> StoredForm:
    """Llama's tensors under other names."""
    return StoredForm(
        outside={"model.embedding_norm": "model.norm"},
        inside={
            "operator_norm": "input_layernorm",
            "ffn_norm": "post_attention_layernorm",
            "self_attn.q_layernorm": "self_attn.q_norm",
            "self_attn.k_layernorm": "self_attn.k_norm",
            "self_attn.out_proj": "self_attn.o_proj",
            "feed_forward.w1": "mlp.gate_proj",
            "feed_forward.w3": "mlp.up_proj",
            "feed_forward.w2": "mlp.down_proj",
        },
    )


def decoder_of(config: ConfigReader, mlps: Sequence[FeedForward]) -> DecoderSpec:
    """LFM2's layers, with this feeding forward in each."""
    config = config.with_defaults(_DEFAULTS).renamed(
        {"norm_eps": "rms_norm_eps", "tie_embedding": "tie_word_embeddings"}
    )
    attention = dataclasses.replace(config.attention(config.rotary()), qk_norm="per_head")
    products = ("in_proj", "conv", "out_proj") if config.flag("conv_bias") else ()
    conv = ShortConvSpec(kernel=config.kernel("conv_L_cache", 3), biases=frozenset(products))
    mixers: dict[str, Part] = {"full_attention": attention, "conv": conv}
    layers = [mixers[kind] for kind in config.layer_types(_layer_types(config), kinds=mixers)]
    return config.decoder(layers, mlps)


def _mlp_size(config: ConfigReader) -> int:
    """The size that is meant by a larger one: two thirds of it, and a multiple of something."""
    size = config.size("intermediate_size")
    if not config.flag("block_auto_adjust_ff_dim"):
        return size
    multiple = config.size("block_multiple_of", 256)
    return multiple * -(-int(config.positive("block_ffn_dim_multiplier", 1.0) * int(2 * size / 3)) // multiple)


def _layer_types(config: ConfigReader) -> list[str]:
    """As older checkpoints say it."""
    attends = config.numbers("full_attn_idxs") if config.has("full_attn_idxs") else range(config.num_layers)
    return ["full_attention" if layer in attends else "conv" for layer in range(config.num_layers)]
