"""Hunyuan with experts: Hunyuan's attention, and experts beside one that all tokens go through."""

from __future__ import annotations

import dataclasses

from genai.build.architectures import hunyuan_v1_dense
from genai.build.architectures.config import ConfigReader
from genai.build.architectures.experts import experts, shared
from genai.build.spec import DecoderSpec, RouterSpec
from genai.build.stored import StoredForm


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Experts in every layer, as many and as many chosen in each."""
    config = config.with_defaults({"rms_norm_eps": 1e-5, "num_experts": 1, "moe_topk": 1})
    config = config.replaced({key: config.even_size(key) for key in ("num_experts", "moe_topk")})
    moe = experts(config, RouterSpec(), size_key="intermediate_size", top_k_key="moe_topk")
    everyones = shared(config, moe.size, "mlp.shared_mlp")
    attention = hunyuan_v1_dense.attention(config)
    return config.decoder([attention] * config.num_layers, [(moe, everyones)] * config.num_layers)


def stored_form(config: ConfigReader) -> StoredForm:
    """The dense ones' names of norms, and the router's."""
    form = hunyuan_v1_dense.stored_form(config)
    return dataclasses.replace(form, inside={**form.inside, "mlp.gate.wg": "mlp.gate"})
