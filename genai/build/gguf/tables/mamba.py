"""Mamba-2 beside attention: Granite 4, Falcon-H1, Nemotron-H."""

from __future__ import annotations

from genai.build.architectures.falcon_h1 import FOLDED
from genai.build.gguf.metadata import ArchitectureMetadata
from genai.build.gguf.tables.llama import GRANITE_MULTIPLIERS, granite_scales
from genai.build.gguf.tables.table import (
    ATTENTION,
    MLP,
    PLAIN,
    PRE_NORMS,
    ROUTER,
    UNGATED_MLP,
    Architecture,
    expert_sizes,
    shared_expert,
    windowless,
)
from genai.build.source import JSON

_BY_LAYER = frozenset({"attention.head_count_kv", "feed_forward_length"})
_MAMBA = {
    "ssm_in": "in_proj",
    "ssm_conv1d": "conv1d",
    "ssm_dt.bias": "dt_bias",
    "ssm_a": "A",
    "ssm_d": "D",
    "ssm_norm": "norm",
    "ssm_out": "out_proj",
}


def _mamba(module: str) -> dict[str, str]:
    return {name: f"{module}.{own}" for name, own in _MAMBA.items()}


def _sizes(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    heads, inner = metadata.size("ssm.time_step_rank"), metadata.size("ssm.inner_size")
    return windowless(metadata) | {
        "mamba_n_heads": heads,
        "mamba_d_head": max(1, inner // heads),
        "mamba_n_groups": metadata.size("ssm.group_count", 1),
        "mamba_d_state": metadata.size("ssm.state_size"),
        "mamba_d_conv": metadata.size("ssm.conv_kernel"),
        "mamba_conv_bias": False,  # one that is there is used
    }


def _granite(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    rotates = metadata.flag("rope.scaling.finetuned") is not False
    everyones = metadata.size("expert_shared_feed_forward_length", metadata.size("feed_forward_length"))
    extras = _sizes(metadata) | granite_scales(metadata) | {
        "layer_types": metadata.kinds_of_layers("ssm_in.weight", "linear_attention", "full_attention"),
        "position_embedding_type": "rope" if rotates else None,
        "mamba_expand": max(1, metadata.size("ssm.inner_size") // metadata.hidden_size),
        "num_local_experts": 0,
        "shared_intermediate_size": everyones,
        "fused_shared_mlp": False,
    }  # fmt: skip
    if (count := metadata.optional_size("expert_count")) is None:
        return extras
    return extras | expert_sizes(metadata) | {"num_local_experts": count}


def _falcon_h1(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    # llama.cpp has the gate before the norm, and converters multiply the multipliers into the weights.
    return _sizes(metadata) | {
        "mamba_d_ssm": metadata.size("ssm.inner_size"),
        "mamba_rms_norm": metadata.has_tensor("blk.0.ssm_norm.weight"),
        "mamba_norm_before_gate": False,
        FOLDED: True,
    }


def _nemotron_h(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    mixers = metadata.kinds_of_layers("ssm_in.weight", "linear_attention", "full_attention")
    mlps = metadata.kinds_of_layers("ffn_up.weight", "mlp", "")
    layer_types: list[JSON] = [mlp or mixer for mlp, mixer in zip(mlps, mixers, strict=True)]
    return _sizes(metadata) | {"layers_block_type": layer_types, "mlp_hidden_act": "relu2"}


def _in(module: str, names: dict[str, str]) -> dict[str, str]:
    return {name: f"{module}.{own.rpartition('.')[2]}" for name, own in names.items()}


ARCHITECTURES = {
    "granitehybrid": Architecture(
        model_type="granitemoehybrid",
        layer=ATTENTION | PRE_NORMS | ROUTER | _mamba("mamba") | shared_expert("shared_mlp") | _in("shared_mlp", MLP),
        extras=_granite,
        has_paired_heads=True,
        by_layer=_BY_LAYER,
        reads=GRANITE_MULTIPLIERS | {"expert_count"},
        has_experts=True,
    ),
    "falcon-h1": Architecture(
        model_type="falcon_h1",
        layer=PLAIN | {"ffn_norm": "pre_ff_layernorm"} | _mamba("mamba"),
        extras=_falcon_h1,
    ),
    "nemotron_h": Architecture(
        model_type="nemotron_h",
        layer={"attn_norm": "norm"} | _in("mixer", ATTENTION) | _in("mixer", UNGATED_MLP) | _mamba("mixer"),
        extras=_nemotron_h,
        by_layer=_BY_LAYER,
    ),
}
