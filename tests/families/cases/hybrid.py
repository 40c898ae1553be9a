"""Recurrent states beside keys and values: gated delta rules, Mamba-2, short convolutions."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.build import tiny
from tests.families.case import Case, rope
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
}
