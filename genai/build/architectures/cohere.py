"""Command-R: norms without bias, attention and MLP side by side, neighbours rotated together, scaled logits."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.blocks import parallel
from genai.build.architectures.config import ConfigReader
from genai.build.source import JSON
from genai.build.spec import AttentionSpec, DecoderSpec, RotarySpec

_DEFAULTS: dict[str, JSON] = {"tie_word_embeddings": True, "rope_theta": 500_000.0}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Llama's attention, where `use_qk_norm` is set with a norm for each head's queries and keys.

    The first configurations have the context that the model was trained for in `model_max_length`.
    """
    longest = config.size("model_max_length", config.size("max_position_embeddings"))
    config = config.with_defaults(_DEFAULTS).replaced({"max_position_embeddings": longest})
    attention = config.attention(interleaved(config.rotary()))
    if config.flag("use_qk_norm"):
        attention = dataclasses.replace(attention, qk_norm="own_per_head")
    return parallel_decoder(config, [attention] * config.num_layers)


def interleaved(rotary: RotarySpec) -> RotarySpec:
    """The same frequencies, with neighbours rotated together."""
    return dataclasses.replace(rotary, is_interleaved=True)


def parallel_decoder(config: ConfigReader, attentions: list[AttentionSpec]) -> DecoderSpec:
    """Cohere's layers with these attentions."""
    return dataclasses.replace(
        config.decoder_of(parallel(attentions, [config.mlp()] * len(attentions)), config.layer_norm),
        logits_scale=config.positive("logit_scale", 0.0625),
    )
