"""Latent attention: DeepSeek V2, V3, GLM-4.7-Flash and Youtu-LLM, whose files are all `deepseek2`; MiniCPM3."""

from __future__ import annotations

from genai.build.gguf.metadata import ArchitectureMetadata
from genai.build.gguf.tables.table import (
    MLP,
    PRE_NORMS,
    ROUTER,
    SIGMOID,
    SOFTMAX,
    Architecture,
    expert_sizes,
    shared_expert,
    windowless,
)
from genai.build.source import JSON

_LATENT = {
    "attn_q": "self_attn.q_proj",
    "attn_q_a": "self_attn.q_a_proj",
    "attn_q_a_norm": "self_attn.q_a_layernorm",
    "attn_q_b": "self_attn.q_b_proj",
    "attn_kv_a_mqa": "self_attn.kv_a_proj_with_mqa",
    "attn_kv_a_norm": "self_attn.kv_a_layernorm",
    "attn_kv_b": "self_attn.kv_b_proj",
    "attn_output": "self_attn.o_proj",
}
"""Of heads, `attn_k_b` and `attn_v_b` are stacks, which `tensors.py` names."""


def _deepseek2(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    if metadata.optional_size("expert_count") is None:
        return windowless(metadata) | _sizes(metadata) | {"model_type": "youtu"}
    return _with_experts(metadata)


def _with_experts(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    num_dense = metadata.optional_size("leading_dense_block_count") or 0
    # The first files of V2 and of GLM have no `expert_gating_func`; they tell by the tensor that corrects scores.
    is_corrected = metadata.has_tensor(f"blk.{num_dense}.exp_probs_b.bias")
    sizes = expert_sizes(metadata, gating=SIGMOID if is_corrected else SOFTMAX, groups=True)
    groups = metadata.size("expert_group_count", 1)
    return (
        windowless(metadata)
        | sizes
        | _sizes(metadata)
        | {
            "model_type": _CORRECTED.get(metadata.pre_tokenizer, "deepseek_v3") if is_corrected else "deepseek_v2",
            "n_shared_experts": metadata.optional_size("expert_shared_count") or 0,
            "first_k_dense_replace": num_dense,
            "n_group": groups,
            "topk_group": metadata.size("expert_group_used_count", 1),
            "topk_method": "group_limited_greedy" if groups > 1 else "greedy",
            "norm_topk_prob": metadata.flag("expert_weights_norm") is True,
            "routed_scaling_factor": metadata.number("expert_weights_scale", 1.0),
        }
    )


_CORRECTED: dict[object, str] = {"glm4": "glm4_moe_lite"}
"""By the pre-tokenizer, whose model it is; what is computed is the same."""


def _sizes(metadata: ArchitectureMetadata, value_size: int | None = None) -> dict[str, JSON]:
    rotated = metadata.size("rope.dimension_count")
    # Without keys of their own, heads are told as they are made of the latent.
    key = metadata.size("attention.key_length_mla", metadata.size("attention.key_length"))
    return {
        "q_lora_rank": metadata.optional_size("attention.q_lora_rank"),
        "kv_lora_rank": metadata.size("attention.kv_lora_rank"),
        "qk_rope_head_dim": rotated,
        "qk_nope_head_dim": key - rotated,
        "v_head_dim": value_size
        or metadata.size("attention.value_length_mla", metadata.size("attention.value_length")),
    }


def _minicpm3(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    # llama.cpp has the multipliers as constants, which are also what a configuration means that leaves them out.
    values = metadata.size("attention.value_length", metadata.hidden_size // metadata.num_heads)
    return windowless(metadata) | _sizes(metadata, values)


ARCHITECTURES = {
    "minicpm3": Architecture(model_type="minicpm3", layer=_LATENT | MLP | PRE_NORMS, extras=_minicpm3, has_latent=True),
    "deepseek2": Architecture(
        model_type="deepseek_v3",
        layer=_LATENT | MLP | PRE_NORMS | ROUTER | shared_expert("mlp.shared_experts"),
        extras=_deepseek2,
        reads=frozenset({"expert_count"}),
        has_experts=True,
        has_latent=True,
    ),
}
