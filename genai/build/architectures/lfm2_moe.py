"""LFM2 with experts: chosen by corrected sigmoid scores in all but the first `num_dense_layers` layers."""

from __future__ import annotations

import dataclasses

from genai.build.architectures import lfm2
from genai.build.architectures.config import ConfigReader
from genai.build.architectures.experts import experts, feed_forwards
from genai.build.source import JSON
from genai.build.spec import DecoderSpec, RouterSpec
from genai.build.stored import StoredForm

_DEFAULTS: dict[str, JSON] = {"use_expert_bias": True, "norm_topk_prob": True, "num_dense_layers": 2}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """LFM2's layers, whose dense feed-forward networks are as wide as the configuration says."""
    config = config.with_defaults(_DEFAULTS)
    router = RouterSpec(
        score="sigmoid",
        has_correction=config.flag("use_expert_bias"),
        is_normalised=config.flag("norm_topk_prob"),
        scale=config.number("routed_scaling_factor", 1.0),
    )
    layers = range(config.count("num_dense_layers"), config.num_layers)
    return lfm2.decoder_of(config, feed_forwards(config, experts(config, router), layers))


def stored_form(config: ConfigReader) -> StoredForm:
    """LFM2's names, and the experts' and their router's."""
    form = lfm2.stored_form(config)
    inside = {
        "feed_forward.gate": "mlp.gate",
        "feed_forward.expert_bias": "mlp.gate.e_score_correction_bias",
        "feed_forward.experts.*.w1": "mlp.experts.*.gate_proj",
        "feed_forward.experts.*.w3": "mlp.experts.*.up_proj",
        "feed_forward.experts.*.w2": "mlp.experts.*.down_proj",
    }
    return dataclasses.replace(form, inside={**form.inside, **inside})
