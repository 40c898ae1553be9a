"""Inputs, outputs and attributes of the operators that no row is about, and why."""

from __future__ import annotations

from collections.abc import Mapping

from genai.conformance.case import Domain

_SPECULATION = "for speculation; nothing that exports decoders writes it"
_TRAINING = "for training"

UNTRIED: Mapping[tuple[Domain, str], Mapping[str, tuple[str, ...]]] = {
    ("com.microsoft", "CausalConvWithState"): {
        "choosing channels and layouts of states, on CUDA alone": (
            "input_channel_offset", "input_channels", "state_channels_last", "state_length",
        ),
        _SPECULATION: ("state_update", "state_update_capacity"),
    },
    ("com.microsoft", "GatedDeltaNet"): {
        _SPECULATION: ("capture_count", "state_update", "state_update_active", "state_update_capacity"),
    },
    ("com.microsoft", "MatMulNBits"): {"the layout of a CUDA kernel": ("weight_prepacked",)},
    ("com.microsoft", "QMoE"): {
        "for weights of FP8, MXFP4 and NVFP4, on CUDA alone": (
            "fc1_act_block_scale", "fc1_act_scale", "fc1_global_scale", "fc2_act_block_scale", "fc2_act_scale",
            "fc2_global_scale",
        ),
    },
    ("com.microsoft", "RotaryEmbedding"): {"its schema does not say what it scales": ("scale",)},
    ("com.microsoft", "SkipLayerNormalization"): {_TRAINING: ("inv_std_var", "mean")},
    ("com.microsoft", "SkipSimplifiedLayerNormalization"): {_TRAINING: ("inv_std_var", "mean")},
}  # fmt: skip
"""By operator and reason."""
