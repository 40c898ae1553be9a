"""Code World Model: Llama with a window on three of four layers."""

from __future__ import annotations

from genai.build.architectures.config import ConfigReader, with_windows
from genai.build.source import JSON
from genai.build.spec import DecoderSpec

_DEFAULTS: dict[str, JSON] = {"rms_norm_eps": 1e-5, "sliding_window": 8192}
_ROTARY: dict[str, JSON] = {
    "rope_theta": 1_000_000.0,
    "rope_scaling": {
        "rope_type": "llama3", "factor": 16.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}  # fmt: skip
"""Where the configuration has no `rope_parameters`."""


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Layers 0, 4, 8, … see everything, unless `layer_types` says otherwise."""
    config = config.with_defaults(_DEFAULTS)
    if not config.mapping("rope_parameters"):
        config = config.with_defaults(_ROTARY)
    return config.decoder(with_windows(config.attention(config.rotary()), config.windows(lambda layer: layer % 4)))
