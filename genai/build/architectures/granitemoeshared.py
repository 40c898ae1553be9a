"""Granite 3 with experts, beside one that all tokens go through."""

from __future__ import annotations

import dataclasses

from genai.build.architectures import granite, granitemoe
from genai.build.architectures.blocks import FeedForward
from genai.build.architectures.config import ConfigReader
from genai.build.architectures.experts import experts, shared
from genai.build.spec import DecoderSpec, RouterSpec
from genai.build.stored import StoredForm

MODULE = "shared_mlp"
"""The common one, within a layer."""


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Granite's layers with experts in each; `shared_intermediate_size` is the common one's size, 0 for none.

    One key is ours, for GGUF files: `fused_shared_mlp` is false where the common one's gate and up are apart.
    """
    config = config.with_defaults({"fused_shared_mlp": True})
    moe = experts(config, RouterSpec(), size_key="intermediate_size")
    mlp: FeedForward = moe
    if size := config.count("shared_intermediate_size"):
        mlp = (moe, dataclasses.replace(shared(config, size, MODULE), is_fused=config.flag("fused_shared_mlp")))
    return granite.decoder_of(config, [mlp] * config.num_layers)


def stored_form(config: ConfigReader) -> StoredForm:
    """The common expert is stored as the others are."""
    form = granitemoe.stored_form(config)
    own = {f"{MODULE}.input_linear": f"{MODULE}.gate_up_proj", f"{MODULE}.output_linear": f"{MODULE}.down_proj"}
    return dataclasses.replace(form, inside={**form.inside, **own})
