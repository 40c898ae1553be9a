"""Qwen3.5 with experts: in every layer, beside one for all tokens that has a gate of its own."""

from __future__ import annotations

from genai.build.architectures.config import ConfigReader
from genai.build.architectures.experts import experts, shared
from genai.build.architectures.qwen3_5 import decoder_of
from genai.build.spec import DecoderSpec, RouterSpec
from genai.build.stored import StoredForm


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Qwen3.5's layers; chosen experts' shares are divided by their sum."""
    size = config.size("shared_expert_intermediate_size")
    config = config.replaced({"intermediate_size": size})  # which no layer has
    everyones = shared(config, size, "mlp.shared_expert", "mlp.shared_expert_gate")
    return decoder_of(config, [(experts(config, RouterSpec()), everyones)] * config.num_layers)


def stored_form(config: ConfigReader) -> StoredForm:
    """All experts of a layer may stand in one tensor, gate and up in [E, 2·I, H], down in [E, H, I]."""
    products = ("gate_up_proj", "down_proj")
    return StoredForm(
        inside={f"mlp.experts.{product}": f"mlp.experts.*.{product}.weight" for product in products},
        predicting=frozenset({"mtp"}),
    )
