"""Falcon-H1: attention and Mamba-2 side by side behind one norm, with multipliers throughout."""

from __future__ import annotations

import dataclasses

import numpy as np

from genai.build.architectures.config import ConfigReader
from genai.build.architectures.mamba import mamba2
from genai.build.architectures.rotary import finite
from genai.build.source import JSON
from genai.build.spec import BlockSpec, DecoderSpec, Mamba2Spec, NormSpec
from genai.build.stored import StoredForm
from genai.errors import UnsupportedModelError

FOLDED = "multipliers_are_folded"
"""A key of configurations made of GGUF files, whose weights are multiplied by what no key tells."""
_DEFAULTS: dict[str, JSON] = {"rms_norm_eps": 1e-5, "mamba_norm_before_gate": True, "mamba_d_head": "auto"}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Layers of two blocks: both mixers, and what feeds forward. Multipliers within layers are the weights'."""
    config = config.with_defaults(_DEFAULTS)
    mixers = (config.attention(config.rotary()), _mamba(config))
    blocks = [
        BlockSpec(layer=layer, parts=parts, norm_in=norm)
        for layer in range(config.num_layers)
        for parts, norm in ((mixers, "input_layernorm"), ((config.mlp(),), "pre_ff_layernorm"))
    ]
    return dataclasses.replace(
        config.decoder_of(tuple(blocks), NormSpec(eps=config.positive("rms_norm_eps", 1e-5))),
        embedding_scale=config.number("embedding_multiplier", 1.0),
        logits_scale=config.number("lm_head_multiplier", 1.0),
    )


def stored_form(config: ConfigReader) -> StoredForm:
    """Weights are stored without the multipliers of what they make.

    Raises: UnsupportedModelError for products with biases whose input is multiplied.
    """
    into_attention, into_mamba = (config.number(f"{part}_in_multiplier", 1.0) for part in ("attention", "ssm"))
    for key, factor in (("attention_bias", into_attention), ("mamba_proj_bias", into_mamba)):
        if config.flag(key) and factor != 1:
            raise UnsupportedModelError(f"Falcon-H1 with {key} and inputs that are multiplied by {factor:g}")
    mamba = _mamba(config.with_defaults(_DEFAULTS))
    sizes = (mamba.inner_size, mamba.inner_size, mamba.group_size, mamba.group_size, mamba.num_heads)
    gate, down = _factors(config, "mlp_multipliers", 2)
    return StoredForm(
        outside={"model.final_layernorm": "model.norm"},
        inside={"feed_forward": "mlp"},
        factors={
            "self_attn.q_proj": into_attention,
            "self_attn.k_proj": into_attention * config.number("key_multiplier", 1.0),
            "self_attn.v_proj": into_attention,
            "self_attn.o_proj": config.number("attention_out_multiplier", 1.0),
            "mamba.in_proj": np.repeat(into_mamba * np.array(_factors(config, "ssm_multipliers", 5)), sizes),
            "mamba.out_proj": config.number("ssm_out_multiplier", 1.0),
            "mlp.gate_proj": gate,
            "mlp.down_proj": down,
        },
    )


def _mamba(config: ConfigReader) -> Mamba2Spec:
    inner = config.optional_size("mamba_d_ssm") or config.size("mamba_expand", 2) * config.size("hidden_size")
    mamba = mamba2(config, inner)
    if config.flag("projectors_bias") != ("out_proj" in mamba.biases):
        mamba = dataclasses.replace(mamba, biases=mamba.biases ^ {"out_proj"})
    if not config.flag("mamba_rms_norm"):
        return dataclasses.replace(mamba, gating="without_norm")
    is_first = config.flag("mamba_norm_before_gate")
    return dataclasses.replace(mamba, gating="after_norm" if is_first else "before_norm")


def _factors(config: ConfigReader, key: str, count: int) -> list[float]:
    factors = config.items(key, count)
    return [1.0] * count if factors is None else [finite(key, factor) for factor in factors]
