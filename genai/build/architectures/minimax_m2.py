"""MiniMax-M2: a norm over all heads' queries and keys together, partial rotary, experts by corrected sigmoid scores."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.config import ConfigReader
from genai.build.architectures.experts import MIXTRAL_NAMES, experts
from genai.build.spec import DecoderSpec, RouterSpec
from genai.build.stored import StoredForm


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Experts in every layer; `rotary_dim` elements of each head are rotated."""
    config = config.with_defaults({"rope_theta": 5_000_000.0})
    if config.has("rotary_dim"):
        config = config.with_defaults({"partial_rotary_factor": config.size("rotary_dim") / config.head_dim})
    attention = dataclasses.replace(config.attention(config.rotary()), qk_norm="all_heads")
    router = RouterSpec(score="sigmoid", has_correction=True)
    moe = experts(config, router, size_key="intermediate_size")
    return config.decoder([attention] * config.num_layers, [moe] * config.num_layers)


def stored_form(_: ConfigReader) -> StoredForm:
    """Mixtral's names; what corrects the scores stands beside the router."""
    correction = "e_score_correction_bias"
    return StoredForm(
        inside=MIXTRAL_NAMES | {f"block_sparse_moe.{correction}": f"mlp.gate.{correction}"},
    )
