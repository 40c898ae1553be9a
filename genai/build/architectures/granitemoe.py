"""Granite 3 with experts: Granite's multipliers, and stacked experts instead of the feed-forward network."""

from __future__ import annotations

from genai.build.architectures import granite
from genai.build.architectures.config import ConfigReader
from genai.build.architectures.experts import experts
from genai.build.spec import DecoderSpec, RouterSpec
from genai.build.stored import StoredForm


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Granite's layers, with experts in each."""
    moe = experts(config, RouterSpec(), size_key="intermediate_size")
    return granite.decoder_of(config, [moe] * config.num_layers)


def stored_form(config: ConfigReader) -> StoredForm:
    """All experts of a layer stand in one tensor, gate and up in [E, 2·I, H], down in [E, H, I]."""
    return StoredForm(
        inside={
            "block_sparse_moe.router.layer": "mlp.gate",
            "block_sparse_moe.input_linear": "mlp.experts.*.gate_up_proj",
            "block_sparse_moe.output_linear": "mlp.experts.*.down_proj",
        }
    )
