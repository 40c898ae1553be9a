"""Gemma 2: norms on both sides of each block, capped scores and logits, a window on every other layer."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from genai.build.architectures.blocks import SANDWICH_NORM, NormNames
from genai.build.architectures.config import ConfigReader
from genai.build.source import JSON
from genai.build.spec import AttentionSpec, DecoderSpec

_DEFAULTS: dict[str, JSON] = {
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "tie_word_embeddings": True,
}


def decoder_spec(config: ConfigReader, norms: NormNames = SANDWICH_NORM) -> DecoderSpec:
    """Layers 0, 2, 4, … have the window, unless `layer_types` says otherwise; norms: VaultGemma has fewer of them."""
    config = config.with_defaults(_DEFAULTS)
    config.refuse("use_bidirectional_attention")
    everywhere = dataclasses.replace(
        config.attention(config.rotary()),
        scale=config.positive("query_pre_attn_scalar", 256) ** -0.5,
        softcap=config.optional_positive("attn_logit_softcapping"),
    )
    nearby = dataclasses.replace(everywhere, sliding_window=config.window)
    slides = config.sliding_layers(lambda layer: layer % 2 == 0)
    return decoder_of(config, [nearby if does else everywhere for does in slides], norms)


def decoder_of(
    config: ConfigReader, attentions: Sequence[AttentionSpec], norms: NormNames = SANDWICH_NORM
) -> DecoderSpec:
    """What Gemma 1 to 3 share: weights of norms are stored as `w - 1`, the embedding is scaled.

    The residual stream reaches hundreds of thousands, beyond float16.
    """
    decoder = config.decoder(attentions, norms=norms)
    return dataclasses.replace(
        decoder,
        norm=dataclasses.replace(decoder.norm, offset=1.0),
        embedding_scale=config.size("hidden_size") ** 0.5,
        logits_softcap=config.optional_positive("final_logit_softcapping"),
        has_wide_residual=True,
    )
