"""Qwen3.5: gated delta rules with states in three of four layers; attention has gates and rotates a quarter.

The text decoder of a model that sees; its layers that predict further tokens are left out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from genai.build.architectures.blocks import FeedForward
from genai.build.architectures.config import ConfigReader
from genai.build.source import JSON
from genai.build.spec import DecoderSpec, DeltaSpec, NormSpec, Part
from genai.build.stored import StoredForm
from genai.errors import WeightsError

TILED = "linear_value_heads_are_tiled"
"""A key of ours, for GGUF files."""
DEFAULTS: dict[str, JSON] = {
    "head_dim": 256,
    "partial_rotary_factor": 0.25,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}
"""Of both families."""


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Dense feed-forward networks in all layers."""
    return decoder_of(config, [config.mlp()] * config.num_layers)


def stored_form(config: ConfigReader) -> StoredForm:
    """Without the layers that predict further tokens."""
    return StoredForm(predicting=frozenset({"mtp"}))


def decoder_of(config: ConfigReader, mlps: Sequence[FeedForward]) -> DecoderSpec:
    """The layers of Qwen3.5 and Qwen3-Next, with this feeding forward in each. Norms are stored as `w - 1`."""
    config = config.with_defaults(DEFAULTS)
    norm = NormSpec(eps=config.positive("rms_norm_eps", 1e-6), offset=1.0)
    attention = dataclasses.replace(config.attention(config.rotary()), qk_norm="per_head", has_gate=True)
    mixers: dict[str, Part] = {"full_attention": attention, "linear_attention": _delta(config, norm)}
    layers = [mixers[kind] for kind in config.layer_types(_layer_types(config), kinds=mixers)]
    return dataclasses.replace(config.decoder(layers, mlps), norm=norm)


def _delta(config: ConfigReader, norm: NormSpec) -> DeltaSpec:
    keys, values = config.size("linear_num_key_heads"), config.size("linear_num_value_heads")
    if values % keys:
        raise WeightsError(f"the model's configuration has {values} value heads, which cannot share {keys} key heads")
    return DeltaSpec(
        num_key_heads=keys,
        num_value_heads=values,
        key_dim=config.size("linear_key_head_dim"),
        value_dim=config.size("linear_value_head_dim"),
        kernel=config.kernel("linear_conv_kernel_dim"),
        norm_eps=norm.eps,
        is_tiled=config.flag(TILED),
    )


def _layer_types(config: ConfigReader) -> list[str]:
    interval = config.size("full_attention_interval", 4)
    return ["linear_attention" if (layer + 1) % interval else "full_attention" for layer in range(config.num_layers)]
