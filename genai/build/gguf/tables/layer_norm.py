"""Families with layer norms whose q, k and v lie apart: Command-R, StableLM, StarCoder2, Nemotron, Phi-2, Jais 2."""

from __future__ import annotations

from genai.build.gguf.metadata import ArchitectureMetadata
from genai.build.gguf.tables.table import (
    ATTENTION,
    FUSED_ATTENTION,
    HEAD_NORMS,
    MLP,
    PLAIN,
    PRE_NORMS,
    UNGATED_MLP,
    Architecture,
    windowless,
)
from genai.build.source import JSON

_ONE_NORM = {"attn_norm": "input_layernorm"}


def _command_r(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    return windowless(metadata) | {
        "logit_scale": metadata.number("logit_scale"),
        "use_qk_norm": metadata.has_tensor("blk.0.attn_q_norm.weight"),
    }


def _cohere2(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    # Layers with a window are those that rotate, whether or not the window is shorter than the context.
    return {
        "logit_scale": metadata.number("logit_scale"),
        "sliding_window": metadata.size("attention.sliding_window"),
        "layer_types": metadata.layer_types(default_period=4),
    }


def _jais2(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    return windowless(metadata) | {
        "hidden_act": "relu2",
        "attention_bias": metadata.has_tensor("blk.0.attn_q.bias"),
        "mlp_bias": metadata.has_tensor("blk.0.ffn_up.bias"),
    }


def _stablelm(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    # `use_parallel_residual` is written wrongly for the first models: the second norm tells.
    return windowless(metadata) | metadata.rotated_share() | {
        "qk_layernorm": metadata.has_tensor("blk.0.attn_q_norm.weight"),
        "use_parallel_residual": not metadata.has_tensor("blk.0.ffn_norm.weight"),
        "use_qkv_bias": metadata.has_tensor("blk.0.attn_q.bias"),
    }  # fmt: skip


def _starcoder2(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    return {
        "hidden_act": "gelu_pytorch_tanh",
        "sliding_window": metadata.window(),
        "use_bias": metadata.has_tensor("blk.0.attn_q.bias"),
    }


def _nemotron(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    return windowless(metadata) | metadata.rotated_share() | {
        "hidden_act": "relu2",
        "mlp_bias": metadata.has_tensor("blk.0.ffn_up.bias"),
    }  # fmt: skip


def _phi2(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    return windowless(metadata) | metadata.rotated_share() | {
        "hidden_act": "gelu_new",
        "fused_qkv": metadata.has_tensor("blk.0.attn_qkv.weight"),  # the first files
    }  # fmt: skip


ARCHITECTURES = {
    "jais2": Architecture(model_type="jais2", layer=ATTENTION | UNGATED_MLP | PRE_NORMS, extras=_jais2, norm="layer"),
    "command-r": Architecture(
        model_type="cohere",
        layer=ATTENTION | MLP | _ONE_NORM | HEAD_NORMS,
        extras=_command_r,
        norm="layer",
        reads=frozenset({"logit_scale"}),
    ),
    "cohere2": Architecture(
        model_type="cohere2",
        layer=ATTENTION | MLP | _ONE_NORM,
        extras=_cohere2,
        norm="layer",
        reads=frozenset({"logit_scale"}),
    ),
    "stablelm": Architecture(model_type="stablelm", layer=PLAIN | HEAD_NORMS, extras=_stablelm, norm="layer"),
    "starcoder2": Architecture(
        model_type="starcoder2", layer=ATTENTION | PRE_NORMS | UNGATED_MLP, extras=_starcoder2, norm="layer"
    ),
    "nemotron": Architecture(
        model_type="nemotron",
        layer=ATTENTION | PRE_NORMS | UNGATED_MLP,
        extras=_nemotron,
        norm="layer",
        norm_offset=1.0,
    ),
    "phi2": Architecture(
        model_type="phi",
        layer=ATTENTION | FUSED_ATTENTION | _ONE_NORM | UNGATED_MLP,
        extras=_phi2,
        norm="layer",
    ),
}
