"""GLM-4.5 and later: half of each head rotated, dense first layers, then experts chosen by corrected sigmoid scores."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.config import ConfigReader
from genai.build.architectures.experts import experts, feed_forwards, predicting_layers, shared
from genai.build.source import JSON
from genai.build.spec import DecoderSpec, RouterSpec
from genai.build.stored import StoredForm

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
    router = RouterSpec(
        score="sigmoid",
        has_correction=True,
        groups=config.size("n_group", 1),
        kept_groups=config.size("topk_group", 1),
        group_score="two_best",
        is_normalised=config.flag("norm_topk_prob"),
        scale=config.number("routed_scaling_factor", 1.0),
    )
    moe = experts(config, router)
    everyones = shared(config, moe.size * config.size("n_shared_experts", 1), "mlp.shared_experts")
    layers = range(config.count("first_k_dense_replace"), config.num_layers)
    return config.decoder([attention] * config.num_layers, feed_forwards(config, (moe, everyones), layers))


def stored_form(config: ConfigReader) -> StoredForm:
    """Layers behind the last one predict further tokens."""
    return StoredForm(ignored=predicting_layers(config, "num_nextn_predict_layers"))
