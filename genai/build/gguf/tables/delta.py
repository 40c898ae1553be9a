"""Gated delta rules: Qwen3.5 and Qwen3-Next."""

from __future__ import annotations

from genai.build.gguf.metadata import ArchitectureMetadata
from genai.build.gguf.tables.table import (
    ATTENTION,
    HEAD_NORMS,
    MLP,
    ROUTER,
    Architecture,
    expert_sizes,
    shared_expert,
    windowless,
)
from genai.build.source import JSON

_DELTA = {
    "attn_qkv": "linear_attn.in_proj_qkv",
    "attn_gate": "linear_attn.in_proj_z",
    "ssm_alpha": "linear_attn.in_proj_a",
    "ssm_beta": "linear_attn.in_proj_b",
    "ssm_conv1d": "linear_attn.conv1d",
    "ssm_dt.bias": "linear_attn.dt_bias",
    "ssm_a": "linear_attn.A",
    "ssm_norm": "linear_attn.norm",
    "ssm_out": "linear_attn.out_proj",
}
_NORMS = {"attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm"}
_EXPERTS = ROUTER | shared_expert("mlp.shared_expert") | {"ffn_gate_inp_shexp": "mlp.shared_expert_gate"}
_READS = frozenset({"rope.dimension_sections"})


def _sizes(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    value_heads = metadata.size("ssm.time_step_rank")
    return windowless(metadata) | metadata.rotated_share() | {
        "linear_conv_kernel_dim": metadata.size("ssm.conv_kernel"),
        "linear_key_head_dim": metadata.size("ssm.state_size"),
        "linear_num_key_heads": metadata.size("ssm.group_count"),
        "linear_num_value_heads": value_heads,
        "linear_value_head_dim": max(1, metadata.size("ssm.inner_size") // value_heads),
        "layer_types": metadata.kinds_of_layers("ssm_conv1d.weight", "linear_attention", "full_attention"),
    }  # fmt: skip


def _qwen35moe(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    return _sizes(metadata) | _experts(metadata)


def _qwen3next(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    return _sizes(metadata) | _experts(metadata) | {"norm_topk_prob": True}


def _experts(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    sizes = expert_sizes(metadata)
    everyones = metadata.size("expert_shared_feed_forward_length", metadata.size("expert_feed_forward_length"))
    return sizes | {"shared_expert_intermediate_size": everyones}


ARCHITECTURES = {
    "qwen35": Architecture(
        model_type="qwen3_5_text",
        layer=ATTENTION | HEAD_NORMS | MLP | _NORMS | _DELTA,
        extras=_sizes,
        has_tiled_heads=True,
        norm_offset=1.0,
        reads=_READS,
    ),
    "qwen35moe": Architecture(
        model_type="qwen3_5_moe_text",
        layer=ATTENTION | HEAD_NORMS | _NORMS | _DELTA | _EXPERTS,
        extras=_qwen35moe,
        has_tiled_heads=True,
        norm_offset=1.0,
        reads=_READS | {"expert_count"},
        has_experts=True,
    ),
    "qwen3next": Architecture(
        model_type="qwen3_next",
        layer=ATTENTION | HEAD_NORMS | MLP | _NORMS | _DELTA | _EXPERTS | {"ssm_ba": "linear_attn.in_proj_ba"},
        extras=_qwen3next,
        norm_offset=1.0,
        reads=_READS | {"expert_count"},
        has_experts=True,
    ),
}
