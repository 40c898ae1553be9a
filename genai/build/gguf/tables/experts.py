"""Mixtures of experts, Mixtral aside, whose files are of the architecture `llama`."""

from __future__ import annotations

from genai.build.gguf.metadata import ArchitectureMetadata
from genai.build.gguf.rotary import yarn
from genai.build.gguf.tables.llama import GRANITE_MULTIPLIERS, granite_multipliers
from genai.build.gguf.tables.table import (
    ATTENTION,
    HEAD_NORMS,
    PLAIN,
    PRE_NORMS,
    ROUTER,
    SIGMOID,
    Architecture,
    expert_sizes,
    shared_expert,
    windowless,
)
from genai.build.source import JSON
from genai.errors import UnsupportedModelError

_READS = frozenset({"expert_count"})
_SPARSE = ATTENTION | PRE_NORMS | ROUTER


def _qwen2(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    sizes = windowless(metadata) | expert_sizes(metadata)
    everyones = metadata.size("expert_shared_feed_forward_length", metadata.size("feed_forward_length"))
    return sizes | {"shared_expert_intermediate_size": everyones, "norm_topk_prob": False}


def _qwen3(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    return windowless(metadata) | expert_sizes(metadata) | {"norm_topk_prob": True}


def _olmoe(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    clip = metadata.optional_number("attention.clamp_kqv")
    return windowless(metadata) | expert_sizes(metadata) | {"norm_topk_prob": False, "clip_qkv": clip}


def _granite(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    sizes = granite_multipliers(metadata) | expert_sizes(metadata)
    everyones = metadata.optional_size("expert_shared_feed_forward_length")
    if everyones is None:
        return sizes
    return sizes | {
        "model_type": "granitemoeshared", "shared_intermediate_size": everyones, "fused_shared_mlp": False
    }  # fmt: skip


def _dots1(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    # Files do not tell of windows: the published model has none.
    return (
        windowless(metadata)
        | expert_sizes(metadata, gating=SIGMOID)
        | {
            "n_shared_experts": metadata.size("expert_shared_count"),
            "first_k_dense_replace": metadata.optional_size("leading_dense_block_count") or 0,
            "norm_topk_prob": metadata.flag("expert_weights_norm") is True,
            "routed_scaling_factor": metadata.number("expert_weights_scale", 1.0),
            "sliding_window": None,
        }
    )


def _minimax_m2(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    sizes = windowless(metadata) | expert_sizes(metadata, gating=SIGMOID)
    return sizes | {"intermediate_size": sizes["moe_intermediate_size"]}


def _hunyuan(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    sizes = windowless(metadata) | expert_sizes(metadata)
    everyones = metadata.size("expert_shared_feed_forward_length", metadata.size("feed_forward_length"))
    size = sizes["moe_intermediate_size"]
    if everyones != size:
        raise UnsupportedModelError(f"{metadata.path}: an expert for all tokens of {everyones} elements beside {size}")
    return sizes | {"moe_topk": sizes["num_experts_per_tok"], "intermediate_size": size}


def _glm4(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    return (
        windowless(metadata)
        | expert_sizes(metadata, gating=SIGMOID, groups=True)
        | {
            "n_shared_experts": metadata.size("expert_shared_count", 1),
            "first_k_dense_replace": metadata.optional_size("leading_dense_block_count") or 0,
            "n_group": metadata.size("expert_group_count", 1),
            "topk_group": metadata.size("expert_group_used_count", 1),
            "norm_topk_prob": metadata.flag("expert_weights_norm") is not False,
            "routed_scaling_factor": metadata.number("expert_weights_scale", 1.0),
            "use_qk_norm": metadata.has_tensor("blk.0.attn_q_norm.weight"),
        }
    )


def _ernie4_5(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    sizes = windowless(metadata) | expert_sizes(metadata)
    return sizes | {
        "moe_k": sizes["num_experts_per_tok"],
        "moe_num_shared_experts": metadata.optional_size("expert_shared_count") or 0,
        "moe_layer_start_index": metadata.optional_size("leading_dense_block_count") or 0,
        "moe_layer_interval": metadata.size("interleave_moe_layer_step", 1),
    }


def _phimoe(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    return expert_sizes(metadata) | {"sliding_window": metadata.window()}


def _gpt_oss(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    extras = expert_sizes(metadata) | {
        "sliding_window": metadata.size("attention.sliding_window"),
        "layer_types": metadata.layer_types(default_period=2),
    }
    size = extras.pop("moe_intermediate_size")
    if metadata.text("rope.scaling.type") == "yarn":  # files cannot say that its bounds are not rounded
        scaling = yarn(metadata, metadata.number("rope.scaling.factor")) | {"truncate": False}
        extras["rope_scaling"] = scaling
    return extras | {"intermediate_size": size}


def _llama4(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    # llama.cpp has chunks, temperature and which layers rotate as constants; of the two sizes there are, the one with
    # 128 experts has no norms of queries and keys.
    sizes = windowless(metadata) | expert_sizes(metadata, gating=SIGMOID)
    return sizes | {
        "intermediate_size": sizes["moe_intermediate_size"],
        "intermediate_size_mlp": metadata.size("feed_forward_length"),
        "interleave_moe_layer_step": metadata.size("interleave_moe_layer_step"),
        "use_qk_norm": sizes["num_experts"] != 128,
    }


ARCHITECTURES = {
    "llama4": Architecture(
        model_type="llama4_text",
        layer=PLAIN | ROUTER | shared_expert("mlp.shared_expert"),
        extras=_llama4,
        reads=_READS,
        has_experts=True,
    ),
    "qwen2moe": Architecture(
        model_type="qwen2_moe",
        layer=_SPARSE | shared_expert("mlp.shared_expert") | {"ffn_gate_inp_shexp": "mlp.shared_expert_gate"},
        extras=_qwen2,
        reads=_READS,
        has_experts=True,
    ),
    "qwen3moe": Architecture(
        model_type="qwen3_moe", layer=PLAIN | ROUTER | HEAD_NORMS, extras=_qwen3, reads=_READS, has_experts=True
    ),
    "olmoe": Architecture(
        model_type="olmoe",
        layer=_SPARSE | HEAD_NORMS,
        extras=_olmoe,
        reads=_READS | {"attention.clamp_kqv"},
        has_experts=True,
    ),
    "granitemoe": Architecture(
        model_type="granitemoe",
        layer=_SPARSE | shared_expert("shared_mlp"),
        extras=_granite,
        has_paired_heads=True,
        reads=_READS | GRANITE_MULTIPLIERS,
        has_experts=True,
    ),
    "dots1": Architecture(
        model_type="dots1",
        layer=PLAIN | ROUTER | HEAD_NORMS | shared_expert("mlp.shared_experts"),
        extras=_dots1,
        reads=_READS,
        has_experts=True,
    ),
    "hunyuan-moe": Architecture(
        model_type="hunyuan_v1_moe",
        layer=_SPARSE | HEAD_NORMS | shared_expert("mlp.shared_mlp"),
        extras=_hunyuan,
        reads=_READS,
        has_experts=True,
    ),
    "minimax-m2": Architecture(
        model_type="minimax_m2", layer=_SPARSE | HEAD_NORMS, extras=_minimax_m2, reads=_READS, has_experts=True
    ),
    "glm4moe": Architecture(
        model_type="glm4_moe",
        layer=PLAIN
        | ROUTER
        | HEAD_NORMS
        | shared_expert("mlp.shared_experts")
        | {"post_attention_norm": "post_attention_layernorm"},
        extras=_glm4,
        reads=_READS,
        has_experts=True,
    ),
    "ernie4_5-moe": Architecture(
        model_type="ernie4_5_moe",
        layer=PLAIN | ROUTER | shared_expert("mlp.shared_experts"),
        extras=_ernie4_5,
        reads=_READS,
        has_experts=True,
    ),
    "phimoe": Architecture(model_type="phimoe", layer=_SPARSE, extras=_phimoe, reads=_READS, has_experts=True),
    "gpt-oss": Architecture(
        model_type="gpt_oss",
        layer=ATTENTION
        | ROUTER
        | {
            "attn_norm": "input_layernorm",
            "post_attention_norm": "post_attention_layernorm",
            "attn_sinks.weight": "self_attn.sinks",
        },
        extras=_gpt_oss,
        reads=_READS,
        has_experts=True,
    ),
}
