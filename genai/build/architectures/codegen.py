"""CodeGen: GPT-J with q, v and k in one matrix, in four parts, as it was trained on so many devices."""

from __future__ import annotations

import dataclasses

import numpy as np

from genai.build.architectures import gptj
from genai.build.architectures.config import ConfigReader
from genai.build.spec import DecoderSpec
from genai.build.stored import StoredForm

_PARTS = 4


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """GPT-J's layers."""
    return gptj.decoder(config, is_fused=True)


def stored_form(config: ConfigReader) -> StoredForm:
    """GPT-J's names, and the rows of q, k and v brought together."""
    size = gptj.usual(config).size("hidden_size")
    queries, values, keys = np.arange(3 * size, dtype=np.int64).reshape(_PARTS, 3, -1).swapaxes(0, 1)
    form = gptj.stored_form(config)
    return dataclasses.replace(
        form,
        inside={**form.inside, "attn.qkv_proj": "self_attn.qkv_proj"},
        ignored=form.ignored | {"attn.causal_mask"},
        rows={"self_attn.qkv_proj": np.concatenate([part.reshape(-1) for part in (queries, keys, values)])},
    )
