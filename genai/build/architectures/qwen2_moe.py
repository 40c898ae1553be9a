"""Qwen1.5 and Qwen2 with experts: Qwen2's attention; beside the experts one for all tokens, with a gate of its own."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.config import ConfigReader, with_windows
from genai.build.architectures.experts import experts, feed_forwards, shared, sparse_layers
from genai.build.spec import DecoderSpec, RouterSpec


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Biases on q/k/v unless `qkv_bias` is false; every other one of the first `max_window_layers` layers may slide."""
    config = config.with_defaults({"qkv_bias": True, "sliding_window": 4096, "max_window_layers": 28})
    attention = config.attention(config.rotary())
    if config.flag("qkv_bias"):
        attention = dataclasses.replace(attention, biases=frozenset({"q_proj", "k_proj", "v_proj"}))
    moe = experts(config, RouterSpec(is_normalised=config.flag("norm_topk_prob")))
    everyones = shared(
        config, config.size("shared_expert_intermediate_size"), "mlp.shared_expert", "mlp.shared_expert_gate"
    )
    mlps = feed_forwards(config, (moe, everyones), sparse_layers(config))
    return config.decoder(with_windows(attention, _windows(config)), mlps)


def _windows(config: ConfigReader) -> list[int | None]:
    if not config.flag("use_sliding_window"):
        return [None] * config.num_layers
    first = config.size("max_window_layers")
    return config.windows(lambda layer: layer % 2 == 0 and layer < first)
