"""Latent attention: queries by one product or two, several numbers of heads, yarn, every router of DeepSeek."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.families.case import YARN, Case, legacy, rope
from tests.families.gguf_writer import STACKED, GgufForm, Tensors, renamed

SIZES = {
    "kv_lora_rank": 40,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 24,
    "num_key_value_heads": 4,
    "moe_intermediate_size": 32,
    "n_routed_experts": 6,
    "num_experts_per_tok": 2,
    "q_lora_rank": 48,
}
FIRST_DENSE = {"first_k_dense_replace": 1}
GROUPS = {"n_routed_experts": 8, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 3}
NO_GROUPS = {"n_group": 1, "topk_group": 1}
MSCALE = YARN | {"mscale": 0.707, "mscale_all_dim": 0.707}


def heads_apart(tensors: Tensors, config: Any) -> Tensors:
    """Each head's part of `kv_b_proj`: the keys' transposed."""
    sizes = (config.qk_nope_head_dim, config.v_head_dim)
    result = {}
    for name, tensor in tensors.items():
        if "kv_b_proj" not in name:
            result[name] = tensor
            continue
        whole = tensor.reshape(config.num_attention_heads, sum(sizes), -1)
        result[name.replace("kv_b", "k_b")] = whole[:, : sizes[0]].swapaxes(1, 2)
        result[name.replace("kv_b", "v_b")] = np.ascontiguousarray(whole[:, sizes[0] :])
    return result


def log_multiplier(config: Any) -> float | None:
    every = config.rope_parameters.get("mscale_all_dim")
    return every and 0.1 * every


NAMED = (STACKED, renamed(r"e_score_correction_bias", "e_score_correction.bias"))
KEYS = {
    "attention.head_count_kv": lambda config: 1,
    "attention.key_length": lambda config: config.kv_lora_rank + config.qk_rope_head_dim,
    "attention.value_length": "kv_lora_rank",
    "attention.key_length_mla": lambda config: config.qk_nope_head_dim + config.qk_rope_head_dim,
    "attention.value_length_mla": "v_head_dim",
    "attention.kv_lora_rank": "kv_lora_rank",
    "attention.q_lora_rank": "q_lora_rank",
    "rope.dimension_count": "qk_rope_head_dim",
    "rope.scaling.yarn_log_multiplier": log_multiplier,
    "leading_dense_block_count": lambda config: getattr(config, "first_k_dense_replace", 1),
    "expert_count": "n_routed_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_count": "n_shared_experts",
    "expert_weights_scale": "routed_scaling_factor",
    "expert_weights_norm": lambda config: config.norm_topk_prob or None,
    "expert_group_count": "n_group",
    "expert_group_used_count": "topk_group",
}
SIGMOID = {"expert_gating_func": lambda config: 2}
OLD = {
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": lambda config: config.qk_nope_head_dim + config.qk_rope_head_dim,
    "attention.value_length": "v_head_dim",
    "attention.key_length_mla": None,
    "attention.value_length_mla": None,
}
"""What files of before 2025's April have in place of it: heads as they are made of the latent, all together."""
V2 = GgufForm(arch="deepseek2", steps=(*NAMED, heads_apart), keys=KEYS)
V2_OLD = GgufForm(arch="deepseek2", steps=NAMED, keys=KEYS | OLD)
V3 = GgufForm(arch="deepseek2", steps=(*NAMED, heads_apart), keys=KEYS | SIGMOID)
FLASH = GgufForm(
    arch="deepseek2",
    steps=(*NAMED, heads_apart),
    # As the first files: without a gating function.
    keys=KEYS | {"block_count": lambda config: config.num_hidden_layers + 1, "nextn_predict_layers": lambda config: 1},
    pre_tokenizer="glm4",
)

DENSE = {key: value for key, value in SIZES.items() if "expert" not in key and not key.startswith("moe_")}
YOUTU = GgufForm(
    arch="deepseek2",
    steps=(heads_apart,),
    keys={key: value for key, value in KEYS.items() if not key.startswith("expert_")}
    | {
        "leading_dense_block_count": "num_hidden_layers",
        "expert_feed_forward_length": "intermediate_size",
        "expert_shared_count": lambda config: 0,
    },
)
MINICPM3 = GgufForm(
    arch="minicpm3",
    keys={
        "attention.key_length": lambda config: config.qk_nope_head_dim + config.qk_rope_head_dim,
        "attention.value_length": None,
        "attention.kv_lora_rank": "kv_lora_rank",
        "attention.q_lora_rank": "q_lora_rank",
        "rope.dimension_count": "qk_rope_head_dim",
        "rope.scaling.original_context_length": None,
        "rope.scaling.attn_factor": None,
    },
)


def v2(gguf: GgufForm | None = V2, changes: dict[str, Any] | None = None, **options: Any) -> Case:
    return Case(model_type="deepseek_v2", options=SIZES | FIRST_DENSE | options, changes=changes or {}, gguf=gguf)


def v3(gguf: GgufForm | None = V3, changes: dict[str, Any] | None = None, **options: Any) -> Case:
    sizes = SIZES | FIRST_DENSE | GROUPS
    return Case(model_type="deepseek_v3", options=sizes | options, changes=changes or {}, gguf=gguf)


def flash(gguf: GgufForm | None = FLASH, **options: Any) -> Case:
    return Case(model_type="glm4_moe_lite", options=SIZES | {"v_head_dim": 32} | options, gguf=gguf)


CASES: dict[str, Case] = {
    # transformers clears the padding token's row when it loads such a model, whatever the checkpoint holds.
    "youtu": Case(model_type="youtu", options=DENSE | {"pad_token_id": None, "tie_word_embeddings": False}, gguf=YOUTU),
    "youtu one query product": Case(
        model_type="youtu", options=DENSE | {"q_lora_rank": None, "attention_bias": True, "rope_interleave": False}
    ),
    "minicpm3": Case(
        model_type="minicpm3",
        options=DENSE
        | {"v_head_dim": 16, "tie_word_embeddings": False}
        | rope(
            "longrope", long_factor=[4.0] * 4, short_factor=[1.0, 1.5, 2.0, 3.0], original_max_position_embeddings=256
        ),
        gguf=MINICPM3,
    ),
    "minicpm3 scales": Case(
        model_type="minicpm3",
        options=DENSE | {"scale_emb": 3, "scale_depth": 2.0, "dim_model_base": 48, "v_head_dim": None},
    ),
    "deepseek_v2": v2(q_lora_rank=None, **rope("yarn", **MSCALE)),
    "deepseek_v2 whole heads": v2(V2_OLD, q_lora_rank=None, **rope("yarn", **MSCALE)),
    "deepseek_v2 groups": v2(topk_method="group_limited_greedy", routed_scaling_factor=4.0, **GROUPS),
    "deepseek_v2 one head": v2(num_attention_heads=1, num_key_value_heads=1, n_shared_experts=1),
    "deepseek_v2 biases": v2(None, attention_bias=True, mlp_bias=True, first_k_dense_replace=0),
    "deepseek_v3": v3(n_shared_experts=2),
    "deepseek_v3 yarn": v3(
        first_k_dense_replace=2,
        **rope("yarn", factor=4.0, original_max_position_embeddings=32, mscale=1.0, mscale_all_dim=1.0),
    ),
    "deepseek_v3 old yarn": v3(None, legacy(type="yarn", **YARN, mscale=1.2, mscale_all_dim=0.8)),
    "deepseek_v3 many heads": v3(num_attention_heads=16, num_key_value_heads=16, qk_nope_head_dim=8, v_head_dim=8),
    "deepseek_v3 shares": v3(
        norm_topk_prob=False, q_lora_rank=None, attention_bias=True, rope_interleave=False, gguf=None
    ),
    "glm4_moe_lite": flash(),
    "glm4_moe_lite inner norms": flash(None, rms_norm_eps=0.1),
    "glm4_moe_lite layers": flash(None, mlp_layer_types=["sparse", "dense", "sparse"]),
}
