"""Granite: Llama with multipliers on embedding, attention scores, residual additions and logits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from genai.build.architectures.blocks import PRE_NORM, FeedForward, NormNames
from genai.build.architectures.config import ConfigReader
from genai.build.spec import AttentionSpec, DecoderSpec, Part, RotarySpec


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Llama's layers with Granite's four multipliers, each 1 where it is missing."""
    return decoder_of(config, [config.mlp()] * config.num_layers)


def decoder_of(
    config: ConfigReader,
    mlps: Sequence[FeedForward],
    norms: NormNames = PRE_NORM,
    mixers: Sequence[Part] | None = None,
) -> DecoderSpec:
    """Granite's layers with this feeding forward in each; mixers: what stands before it, attention unless given."""
    mixers = [attention(config, config.rotary())] * config.num_layers if mixers is None else mixers
    return dataclasses.replace(
        config.decoder(mixers, mlps, norms),
        embedding_scale=config.number("embedding_multiplier", 1.0),
        residual_scale=config.number("residual_multiplier", 1.0),
        logits_scale=1.0 / config.positive("logits_scaling", 1.0),
    )


def attention(config: ConfigReader, rotary: RotarySpec | None) -> AttentionSpec:
    """The usual attention, whose scores have a scale of their own."""
    return dataclasses.replace(config.attention(rotary), scale=config.number("attention_multiplier", 1.0))
