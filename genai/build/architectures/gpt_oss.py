"""gpt-oss: attention sinks, a window on every other layer, biases throughout, experts published in MXFP4."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from genai.build.architectures.config import ConfigReader, with_windows
from genai.build.architectures.experts import experts
from genai.build.source import JSON
from genai.build.spec import DecoderSpec, RouterSpec
from genai.build.stored import StoredForm

_DEFAULTS: Mapping[str, JSON] = {
    "num_local_experts": 128,
    "num_experts_per_tok": 4,
    "sliding_window": 128,
    "attention_bias": True,
    "rope_theta": 150_000.0,
}
_ROTARY: Mapping[str, JSON] = {
    "rope_scaling": {
        "rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False,
        "original_max_position_embeddings": 4096,
    }
}  # fmt: skip
"""Where the configuration has no `rope_parameters`."""


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """An expert's product of gate and up is `gate * sigmoid(1.702 * gate) * (up + 1)`, both of them bounded."""
    config = config.with_defaults(_DEFAULTS)
    if not config.mapping("rope_parameters"):
        config = config.with_defaults(_ROTARY)
    attention = dataclasses.replace(config.attention(config.rotary()), has_sinks=True)
    windows = config.windows(lambda layer: layer % 2 == 0)
    moe = dataclasses.replace(
        experts(config, RouterSpec(), size_key="intermediate_size"),
        alpha=config.positive("swiglu_alpha", 1.702),
        beta=1.0,
        limit=config.positive("swiglu_limit", 7.0),
        is_interleaved=True,
        has_biases=True,
    )
    return config.decoder(with_windows(attention, windows), [moe] * config.num_layers)


def stored_form(config: ConfigReader) -> StoredForm:
    """Experts are stacks: floats as [in, out], MXFP4 as [out, in]."""
    parts = ("gate_up_proj", "down_proj")
    is_packed = config.inner("quantization_config").has("quant_method")
    weights = "_blocks" if is_packed else ""
    return StoredForm(
        inside={"mlp.router": "mlp.gate"}
        | {f"mlp.experts.{part}{weights}": f"mlp.experts.*.{part}.weight" for part in parts}
        | {f"mlp.experts.{part}_bias": f"mlp.experts.*.{part}.bias" for part in parts},
        transposed=frozenset(() if is_packed else {f"mlp.experts.*.{part}" for part in parts}),
    )
