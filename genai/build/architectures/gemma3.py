"""Gemma 3 (text): norms on both sides of each block, per-head query/key norms, windows on most layers."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.config import ConfigReader
from genai.build.spec import SANDWICH_NORM, DecoderSpec


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Sliding layers rotate with a local base, full ones with the global base and its scaling.

    Norm weights are stored as `w - 1`; the embedding is scaled by the root of the hidden size.
    """
    config.refuse("use_bidirectional_attention")
    num_layers, pattern = config.size("num_hidden_layers"), config.size("sliding_window_pattern", 6)
    kinds = ["full_attention" if (layer + 1) % pattern == 0 else "sliding_attention" for layer in range(num_layers)]
    windows = config.windows(config.optional_size("sliding_window"), kinds)
    everywhere = dataclasses.replace(
        config.attention(config.rotary("full_attention")),
        scale=config.number("query_pre_attn_scalar", config.head_dim) ** -0.5,
        softcap=config.optional_number("attn_logit_softcapping"),
        qk_norm="per_head",
    )
    nearby = dataclasses.replace(everywhere, rotary=config.rotary("sliding_attention", "rope_local_base_freq"))
    return dataclasses.replace(
        config.decoder([dataclasses.replace(nearby if w else everywhere, sliding_window=w) for w in windows]),
        norms=SANDWICH_NORM,
        norm_offset=1.0,
        embedding_scale=config.size("hidden_size") ** 0.5,
        logits_softcap=config.optional_number("final_logit_softcapping"),
        is_head_tied=config.flag("tie_word_embeddings", default=True),
        activation="gelu_tanh",
    )
