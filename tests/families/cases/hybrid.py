"""Recurrent states beside keys and values: gated delta rules, Mamba-2, short convolutions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tests.build import tiny
from tests.families.case import Case, rope
from tests.families.cases.llama_like import GRANITE
from tests.families.cases.mixtures import GRANITE_SHARED
from tests.families.cases.towers import QWEN, SIZES, tower
from tests.families.gguf_writer import STACKED, GgufForm, Tensors, mapped, plus_one, renamed

SECTIONS = {"rope.dimension_sections": lambda config: [*config.rope_parameters.get("mrope_section", [11, 11, 10]), 0]}


def tiled(tensors: Tensors, config: Any) -> Tensors:
    """Value heads that share a key head, neighbours first, to one of each key head, and again."""
    keys, values, dim = config.linear_num_key_heads, config.linear_num_value_heads, config.linear_value_head_dim
    own = {
        "in_proj_b": 1,
        "in_proj_a": 1,
        "A_log": 1,
        "dt_bias": 1,
        "in_proj_qkv": dim,
        "in_proj_z": dim,
        "conv1d": dim,
    }

    def rows(tensor: np.ndarray, size: int) -> np.ndarray:
        kept, moved = np.split(tensor, [len(tensor) - values * size])  # queries and keys stay
        moved = moved.reshape(keys, values // keys, size, *tensor.shape[1:]).swapaxes(0, 1)
        return np.concatenate([kept, moved.reshape(-1, *tensor.shape[1:])])

    def changed(name: str, tensor: np.ndarray) -> np.ndarray:
        if "linear_attn.out_proj" in name:
            return rows(tensor.T, dim).T
        size = next((size for part, size in own.items() if f"linear_attn.{part}" in name), None)
        return tensor if size is None else rows(tensor, size)

    return {name: changed(name, tensor) for name, tensor in tensors.items()}


FADING = (
    mapped(r"\.A_log$", lambda rates: -np.exp(rates)),
    mapped(r"conv1d\.weight$|conv\.conv\.weight$", lambda weight: weight[:, 0]),
)
"""What llama.cpp's converter does to the tensors of all recurrences."""
STATES = {
    r"model\.layers\.(\d+)\.\w+\.D": r"blk.\1.ssm_d",
    r"model\.layers\.(\d+)\.\w+\.A_log": r"blk.\1.ssm_a",
    r"model\.layers\.(\d+)\.\w+\.dt_bias": r"blk.\1.ssm_dt.bias",
}
QWEN35 = GgufForm(
    arch="qwen35",
    steps=(
        tiled, plus_one(r"(?<!linear_attn\.)norm\.weight$"), *FADING,
        renamed(r"visual\.|mtp\.", ""), renamed(r"model\.language_model\.", "model."),
    ),
    names=STATES,
    keys=SECTIONS
    | {
        "ssm.conv_kernel": "linear_conv_kernel_dim",
        "ssm.state_size": "linear_key_head_dim",
        "ssm.group_count": "linear_num_key_heads",
        "ssm.time_step_rank": "linear_num_value_heads",
        "ssm.inner_size": lambda config: config.linear_num_value_heads * config.linear_value_head_dim,
        "full_attention_interval": lambda config: 2,
        # Blocks that predict further tokens are counted, whether or not they are there.
        "block_count": lambda config: config.num_hidden_layers + 1,
        "nextn_predict_layers": lambda config: 1,
    },
)  # fmt: skip


LFM2 = {
    "num_hidden_layers": 4, "layer_types": ["conv", "full_attention", "conv", "full_attention"],
    "block_auto_adjust_ff_dim": True, "block_multiple_of": 24, "intermediate_size": 100,
    "tie_word_embeddings": False,
} | rope()  # fmt: skip
LFM2_MOE = LFM2 | {
    "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "num_dense_layers": 1, "conv_L_cache": 4
}  # fmt: skip
LFM2_KEYS = {
    "attention.head_count_kv": lambda config: [
        0 if kind == "conv" else config.num_key_value_heads for kind in config.layer_types
    ],
    "attention.layer_norm_rms_epsilon": "norm_eps",
    "shortconv.l_cache": "conv_L_cache",
}
LFM2_NAMES = (renamed(r"model\.language_model\.", "model."), renamed(r"vision_tower|multi_modal_projector", ""))
LFM2_GGUF = GgufForm(
    arch="lfm2",
    steps=(*FADING, *LFM2_NAMES),
    keys=LFM2_KEYS | {"feed_forward_length": lambda config: 24 * 3 if config.block_auto_adjust_ff_dim else 96},
)
LFM2_MOE_GGUF = GgufForm(
    arch="lfm2moe",
    steps=(
        *FADING,
        renamed(r"expert_bias$", "expert_bias.bias"),
        STACKED,
        renamed(r"^model\.(layers\.\d+\.feed_forward\.experts\.)", r"\1"),
    ),
    keys=LFM2_KEYS
    | {
        "expert_count": "num_experts",
        "expert_used_count": "num_experts_per_tok",
        "expert_feed_forward_length": "moe_intermediate_size",
        "leading_dense_block_count": "num_dense_layers",
        "expert_gating_func": lambda config: 2,
    },
)


DELTA_KEYS = {key: source for key, source in QWEN35.keys.items() if key not in ("block_count", "nextn_predict_layers")}
EXPERTS = {
    "num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "shared_expert_intermediate_size": 48,
}  # fmt: skip
EXPERT_KEYS = {
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
QWEN35_MOE = GgufForm(
    arch="qwen35moe",
    steps=(*QWEN35.steps, STACKED),
    names=STATES,
    keys=QWEN35.keys | EXPERT_KEYS | {"feed_forward_length": None},
)


def apart(tensors: Tensors, config: Any) -> Tensors:
    """Of `in_proj_qkvz` q, k and v one after the other, and z; each was of a key head."""
    keys, shared = config.linear_num_key_heads, config.linear_num_value_heads // config.linear_num_key_heads
    sizes = [config.linear_key_head_dim] * 2 + [shared * config.linear_value_head_dim] * 2
    result = {}
    for name, tensor in tensors.items():
        if "in_proj_qkvz" in name:
            parts = np.split(tensor.reshape(keys, -1, tensor.shape[1]), np.cumsum(sizes)[:-1], axis=1)
            q, k, v, z = (part.reshape(-1, tensor.shape[1]) for part in parts)
            result[name.replace("qkvz", "qkv")] = np.concatenate([q, k, v])
            result[name.replace("qkvz", "z")] = z
        else:
            result[name] = tensor
    return result


QWEN3_NEXT = GgufForm(
    arch="qwen3next",
    steps=(apart, plus_one(r"(?<!linear_attn\.)norm\.weight$"), *FADING, STACKED),
    names=STATES,
    keys={key: source for key, source in DELTA_KEYS.items() if key not in SECTIONS} | EXPERT_KEYS,
)
MAMBA = {
    "num_hidden_layers": 5, "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_n_groups": 2, "mamba_d_state": 24,
    "mamba_d_conv": 4, "mamba_expand": 2,
}  # fmt: skip
GRANITE_H = MAMBA | GRANITE | {
    "layer_types": ["linear_attention", "full_attention", "linear_attention", "full_attention", "linear_attention"],
    "shared_intermediate_size": 48,
}  # fmt: skip
MAMBA_KEYS = {
    "ssm.conv_kernel": "mamba_d_conv",
    "ssm.state_size": "mamba_d_state",
    "ssm.group_count": "mamba_n_groups",
    "ssm.time_step_rank": "mamba_n_heads",
    "ssm.inner_size": lambda config: config.mamba_n_heads * config.mamba_d_head,
}
MAMBA_STEPS = (
    *FADING,
    mapped(r"\.(A_log|D)$", lambda rates: rates[:, None]),
    mapped(r"(mamba|mixer)\.norm\.weight$", lambda weight: weight.reshape(2, -1)),
)
SHARED = {
    r"model\.layers\.(\d+)\.shared_mlp\.gate_proj": r"blk.\1.ffn_gate",
    r"model\.layers\.(\d+)\.shared_mlp\.up_proj": r"blk.\1.ffn_up",
    r"model\.layers\.(\d+)\.shared_mlp\.output_linear": r"blk.\1.ffn_down",
}
GRANITE_H_MOE_GGUF = GgufForm(
    arch="granitehybrid",
    steps=(*GRANITE_SHARED.steps, *MAMBA_STEPS),
    names=STATES | GRANITE_SHARED.names,
    keys=GRANITE_SHARED.keys
    | MAMBA_KEYS
    | {
        "attention.head_count_kv": lambda config: [
            0 if kind == "linear_attention" else config.num_key_value_heads for kind in config.layer_types
        ],
        "rope.scaling.finetuned": lambda config: config.position_embedding_type == "rope",
    },
)
GRANITE_H_GGUF = replace(
    GRANITE_H_MOE_GGUF,
    names=STATES | SHARED,
    keys={**GRANITE_H_MOE_GGUF.keys, "expert_count": None, "expert_used_count": None},
)
FALCON_H1 = MAMBA | {
    "num_hidden_layers": 3, "mamba_d_ssm": 96, "mamba_d_head": 24, "tie_word_embeddings": False,
    "embedding_multiplier": 3.0, "lm_head_multiplier": 0.5, "key_multiplier": 0.6, "attention_in_multiplier": 0.8,
    "attention_out_multiplier": 1.2, "ssm_in_multiplier": 1.5, "ssm_out_multiplier": 0.7,
    "ssm_multipliers": [0.5, 1.5, 0.7, 1.2, 0.8], "mlp_multipliers": [0.7, 1.4],
} | rope()  # fmt: skip


def multiplied(tensors: Tensors, config: Any) -> Tensors:
    """Weights with the multipliers of what they read and make."""
    sizes = [config.mamba_d_ssm] * 2 + [config.mamba_n_groups * config.mamba_d_state] * 2 + [config.mamba_n_heads]
    rows = np.repeat(np.array(config.ssm_multipliers, np.float32), sizes)[:, None]
    gate, down = config.mlp_multipliers
    factors = {
        "embed_tokens": config.embedding_multiplier, "lm_head": config.lm_head_multiplier,
        "q_proj": config.attention_in_multiplier, "v_proj": config.attention_in_multiplier,
        "k_proj": config.key_multiplier * config.attention_in_multiplier, "o_proj": config.attention_out_multiplier,
        "in_proj": config.ssm_in_multiplier * rows, "out_proj": config.ssm_out_multiplier,
        "gate_proj": gate, "down_proj": down,
    }  # fmt: skip
    return {
        name: np.asarray(tensor * factors.get(name.split(".")[-2], 1.0), np.float32) for name, tensor in tensors.items()
    }


FALCON_H1_GGUF = GgufForm(
    arch="falcon-h1",
    steps=(multiplied, *MAMBA_STEPS),
    names=STATES,
    keys=MAMBA_KEYS,
)
NEMOTRON_H = {
    "layers_block_type": ["linear_attention", "mlp", "full_attention", "linear_attention", "mlp"], "head_dim": 24,
    "mamba_num_heads": 4, "mamba_head_dim": 32, "n_groups": 2, "ssm_state_size": 24, "conv_kernel": 4,
}  # fmt: skip
NEMOTRON_H_GGUF = GgufForm(
    arch="nemotron_h",
    steps=(renamed(r"^model\.embeddings", "backbone.embeddings"), *MAMBA_STEPS),
    names={
        r"backbone\.layers\.(\d+)\.mixer\.D": r"blk.\1.ssm_d",
        r"backbone\.layers\.(\d+)\.mixer\.A_log": r"blk.\1.ssm_a",
        r"backbone\.layers\.(\d+)\.mixer\.dt_bias": r"blk.\1.ssm_dt.bias",
    },
    keys={
        "attention.layer_norm_rms_epsilon": "layer_norm_epsilon",
        "attention.layer_norm_epsilon": None,
        "attention.head_count_kv": lambda config: [
            config.num_key_value_heads if kind == "full_attention" else 0 for kind in config.layers_block_type
        ],
        "feed_forward_length": lambda config: [
            config.intermediate_size if kind == "mlp" else 0 for kind in config.layers_block_type
        ],
        "ssm.conv_kernel": "conv_kernel",
        "ssm.state_size": "ssm_state_size",
        "ssm.group_count": "n_groups",
        "ssm.time_step_rank": "mamba_num_heads",
        "ssm.inner_size": lambda config: config.mamba_num_heads * config.mamba_head_dim,
    },
)


def qwen3_5(**options: Any) -> Case:
    return Case(model_type="qwen3_5_text", options=tiny.HYBRID | options, gguf=QWEN35)


CASES: dict[str, Case] = {
    "qwen3_5": qwen3_5(),
    "qwen3_5 with vision": Case(
        model_type="qwen3_5",
        options=tiny.HYBRID,
        tower=tower("qwen3_5_text", QWEN | {"num_position_embeddings": 16}),
        gguf=QWEN35,
    ),
    "lfm2": Case(model_type="lfm2", options=LFM2, gguf=LFM2_GGUF),
    "lfm2 biases": Case(
        model_type="lfm2",
        options=LFM2 | {"conv_bias": True, "conv_L_cache": 5, "block_ffn_dim_multiplier": 1.3},
    ),
    "lfm2 as published": Case(
        model_type="lfm2",
        options=LFM2 | {"tie_word_embeddings": True},
        changes={
            "layer_types": ...,
            "full_attn_idxs": [1, 3],
            "intermediate_size": ...,
            "block_ff_dim": 100,
            "tie_word_embeddings": ...,
            "tie_embedding": True,
            "rope_parameters": ...,
            "rope_theta": 1000.0,
        },
    ),
    "lfm2 with vision": Case(
        model_type="lfm2_vl",
        options=LFM2 | {"block_auto_adjust_ff_dim": False, "intermediate_size": 96},
        tower=tower(
            "lfm2",
            SIZES | {"model_type": "siglip2_vision_model", "patch_size": 14, "num_patches": 4},
            image_token_id=299,
        ),
        gguf=LFM2_GGUF,
    ),
    "lfm2_moe": Case(model_type="lfm2_moe", options=LFM2_MOE),
    "lfm2_moe tied": Case(model_type="lfm2_moe", options=LFM2_MOE | {"tie_word_embeddings": True}, gguf=LFM2_MOE_GGUF),
    "lfm2_moe uncorrected": Case(
        model_type="lfm2_moe",
        options=LFM2_MOE | {"use_expert_bias": False, "norm_topk_prob": False, "routed_scaling_factor": 1.5},
    ),
    "qwen3_5 ungrouped": qwen3_5(
        linear_num_value_heads=2, linear_conv_kernel_dim=3, attention_bias=True, tie_word_embeddings=True
    ),
    "qwen3_5_moe": Case(
        model_type="qwen3_5_moe_text",
        options=tiny.HYBRID | EXPERTS,
        changes={"intermediate_size": ...},
        gguf=QWEN35_MOE,
    ),
    "qwen3_5_moe with vision": Case(
        model_type="qwen3_5_moe",
        options=tiny.HYBRID | EXPERTS,
        tower=tower("qwen3_5_moe_text", QWEN | {"num_position_embeddings": 16}),
    ),
    "qwen3_next": Case(model_type="qwen3_next", options=tiny.HYBRID | EXPERTS, gguf=QWEN3_NEXT),
    "qwen3_next dense layers": Case(
        model_type="qwen3_next", options=tiny.HYBRID | EXPERTS | {"mlp_only_layers": [1], "norm_topk_prob": False}
    ),
    "granitemoehybrid": Case(
        model_type="granitemoehybrid",
        options=GRANITE_H | {"num_local_experts": 6, "num_experts_per_tok": 2},
        gguf=GRANITE_H_MOE_GGUF,
    ),
    "granitemoehybrid dense": Case(
        model_type="granitemoehybrid", options=GRANITE_H | {"num_local_experts": 0}, gguf=GRANITE_H_GGUF
    ),
    "granitemoehybrid as published": Case(
        model_type="granitemoehybrid",
        options=GRANITE_H
        | {"num_local_experts": 0, "mamba_n_groups": 1, "mamba_proj_bias": True, "position_embedding_type": "rope"},
        changes={"layer_types": ["mamba", "attention", "mamba", "attention", "mamba"], "mamba_d_head": "auto"},
    ),
    "granitemoehybrid without states": Case(
        model_type="granitemoehybrid",
        options=GRANITE_H | {"num_local_experts": 0, "layer_types": ["full_attention"] * 5},
    ),
    "falcon_h1": Case(model_type="falcon_h1", options=FALCON_H1, gguf=FALCON_H1_GGUF),
    "falcon_h1 norms": Case(
        model_type="falcon_h1",
        options=FALCON_H1 | {"mamba_rms_norm": True, "mamba_norm_before_gate": False},
        gguf=FALCON_H1_GGUF,
    ),
    "falcon_h1 norms first": Case(
        model_type="falcon_h1",
        options=FALCON_H1
        | {"mamba_rms_norm": True, "projectors_bias": True, "time_step_limit": (0.2, 1.1), "mamba_conv_bias": False},
    ),
    "nemotron_h": Case(model_type="nemotron_h", options=NEMOTRON_H, gguf=NEMOTRON_H_GGUF),
    "nemotron_h as published": Case(
        model_type="nemotron_h",
        options=NEMOTRON_H | {"time_step_min": 0.9, "use_bias": True, "mlp_bias": True},
        changes={"layers_block_type": ..., "hybrid_override_pattern": "M-*M-", "num_hidden_layers": 5},
    ),
}
