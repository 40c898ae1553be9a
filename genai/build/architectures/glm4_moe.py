"""GLM-4.5 and later: half of each head rotated, dense first layers, then experts chosen by corrected sigmoid scores."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.config import ConfigReader
from genai.build.architectures.experts import corrected_sigmoid, experts, feed_forwards, predicting_form, shared
from genai.build.source import JSON
from genai.build.spec import DecoderSpec

_DEFAULTS: dict[str, JSON] = {
    "rms_norm_eps": 1e-5,
    "norm_topk_prob": True,
    "partial_rotary_factor": 0.5,
    "first_k_dense_replace": 1,
}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Experts from `first_k_dense_replace` on, beside `n_shared_experts` that all tokens go through."""
    config = config.with_defaults(_DEFAULTS)
    attention = config.attention(config.rotary())
    # A bias on q, k and v alone: the output product has none.
    biases = attention.biases - {"o_proj"}
    attention = dataclasses.replace(
        attention, biases=biases, qk_norm="per_head" if config.flag("use_qk_norm") else "none"
    )
    moe = experts(config, corrected_sigmoid(config))
    everyones = shared(config, moe.size * config.size("n_shared_experts", 1), "mlp.shared_experts")
    layers = range(config.count("first_k_dense_replace"), config.num_layers)
    return config.decoder([attention] * config.num_layers, feed_forwards(config, (moe, everyones), layers))


stored_form = predicting_form
