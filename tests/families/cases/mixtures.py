"""Mixtures of experts: every router, dense layers between, experts for all tokens."""

from __future__ import annotations

from typing import Any

from tests.families.case import Case, rope
from tests.families.cases.llama_like import GRANITE, GRANITE_GGUF
from tests.families.gguf_writer import PAIRED, STACKED, GgufForm, mapped, renamed, split

EXPERTS = {"num_experts": 6, "num_experts_per_tok": 2}
SMALL = EXPERTS | {"moe_intermediate_size": 32}
LOCAL = {"num_local_experts": 6, "num_experts_per_tok": 2}
WINDOW = {"use_sliding_window": True, "sliding_window": 6}
COUNTS = {"expert_count": "num_local_experts", "expert_used_count": "num_experts_per_tok"}
SIZE = {"expert_feed_forward_length": "moe_intermediate_size"}

# llama.cpp's name for Mixtral's experts: w1, w2 and w3 one by one become stacks of gate, down and up.
MIXTRAL_STACKED = (
    renamed(r"block_sparse_moe\.experts\.(\d+)\.w1\.", r"mlp.experts.\1.gate_proj."),
    renamed(r"block_sparse_moe\.experts\.(\d+)\.w2\.", r"mlp.experts.\1.down_proj."),
    renamed(r"block_sparse_moe\.experts\.(\d+)\.w3\.", r"mlp.experts.\1.up_proj."),
    STACKED,
)
QWEN2 = GgufForm(
    arch="qwen2moe",
    steps=(STACKED,),
    keys=COUNTS
    | SIZE
    | {"expert_count": "num_experts", "expert_shared_feed_forward_length": "shared_expert_intermediate_size"},
)
QWEN3 = GgufForm(arch="qwen3moe", steps=(STACKED,), keys=COUNTS | SIZE)
MIXTRAL = GgufForm(
    arch="llama", steps=(*PAIRED, *MIXTRAL_STACKED), keys=COUNTS | {"attention.sliding_window": "sliding_window"}
)
OLMOE = GgufForm(arch="olmoe", steps=(STACKED,), keys=COUNTS | {"attention.clamp_kqv": "clip_qkv"})
GRANITE_MOE = GgufForm(
    arch="granitemoe",
    steps=(
        *PAIRED,
        split(r"moe\.input_linear\.weight", "moe.experts.gate_proj.weight", "moe.experts.up_proj.weight", axis=1),
        renamed(r"block_sparse_moe\.experts", "mlp.experts"),
    ),
    keys=GRANITE_GGUF.keys | COUNTS,
)
SHARED_MLP = r"model\.layers\.(\d+)\.shared_mlp\."
GRANITE_SHARED = GgufForm(
    arch="granitemoe",
    steps=(
        *GRANITE_MOE.steps,
        split(r"shared_mlp\.input_linear\.weight", "shared_mlp.gate_proj.weight", "shared_mlp.up_proj.weight"),
    ),
    names={
        SHARED_MLP + "gate_proj": r"blk.\1.ffn_gate_shexp",
        SHARED_MLP + "up_proj": r"blk.\1.ffn_up_shexp",
        SHARED_MLP + "output_linear": r"blk.\1.ffn_down_shexp",
    },
    keys={**GRANITE_MOE.keys, "expert_shared_feed_forward_length": "shared_intermediate_size"},
)
CORRECTED = renamed(r"e_score_correction_bias", "e_score_correction.bias")
DOTS = GgufForm(
    arch="dots1",
    steps=(STACKED, CORRECTED),
    keys=COUNTS
    | SIZE
    | {
        "expert_count": "n_routed_experts",
        "expert_shared_count": "n_shared_experts",
        "leading_dense_block_count": "first_k_dense_replace",
        "expert_gating_func": lambda config: 2,
        "expert_weights_scale": "routed_scaling_factor",
        "expert_weights_norm": "norm_topk_prob",
    },
)
MINIMAX = GgufForm(
    arch="minimax-m2",
    steps=(*MIXTRAL_STACKED, CORRECTED),
    keys=COUNTS | {"expert_feed_forward_length": "intermediate_size", "expert_gating_func": lambda config: 2},
)
HUNYUAN = GgufForm(
    arch="hunyuan-moe",
    steps=(STACKED,),
    keys={
        "expert_count": "num_experts",
        "expert_used_count": "moe_topk",
        "expert_shared_feed_forward_length": "intermediate_size",
        "expert_feed_forward_length": "intermediate_size",
    },
)
GLM4 = GgufForm(
    arch="glm4moe",
    steps=(STACKED, renamed(r"e_score_correction_bias", "e_score_correction.bias")),
    keys=COUNTS
    | SIZE
    | {
        "expert_count": "n_routed_experts",
        "expert_shared_count": "n_shared_experts",
        "leading_dense_block_count": "first_k_dense_replace",
        "expert_gating_func": lambda config: 2,
        "expert_weights_scale": "routed_scaling_factor",
        "expert_weights_norm": "norm_topk_prob",
        "expert_group_count": "n_group",
        "expert_group_used_count": "topk_group",
        # Blocks that predict further tokens are counted, whether or not they are there.
        "block_count": lambda config: config.num_hidden_layers + 1,
        "nextn_predict_layers": lambda config: 1,
    },
)
ERNIE = GgufForm(
    arch="ernie4_5-moe",
    steps=(
        STACKED,
        renamed(r"e_score_correction_bias", "e_score_correction.bias"),
        mapped(r"e_score_correction", lambda bias: bias[0]),
    ),
    keys=SIZE
    | {
        "expert_count": "moe_num_experts",
        "expert_used_count": "moe_k",
        "expert_shared_count": "moe_num_shared_experts",
        "leading_dense_block_count": "moe_layer_start_index",
        "interleave_moe_layer_step": "moe_layer_interval",
    },
)
PHI = GgufForm(
    arch="phimoe",
    steps=MIXTRAL_STACKED,
    keys=COUNTS | {"attention.sliding_window": lambda config: config.sliding_window or 0},
)
LLAMA4_GGUF = GgufForm(
    arch="llama4",
    steps=(
        mapped(r"experts\.(gate_up|down)_proj$", lambda weight: weight.swapaxes(-1, -2)),
        split(r"experts\.gate_up_proj$", "experts.gate_proj.weight", "experts.up_proj.weight", axis=1),
        renamed(r"experts\.down_proj$", "experts.down_proj.weight"),
    ),
    keys=COUNTS
    | {
        "feed_forward_length": "intermediate_size_mlp",
        "expert_feed_forward_length": "intermediate_size",
        "interleave_moe_layer_step": "interleave_moe_layer_step",
    },
)
LLAMA4 = {
    "num_hidden_layers": 5, "num_local_experts": 6, "num_experts_per_tok": 1, "head_dim": 16,
    "intermediate_size_mlp": 80, "interleave_moe_layer_step": 2,
}  # fmt: skip
CHUNKS = {"attention_chunk_size": 8, "floor_scale": 6, "attn_scale": 0.4}
GLM = {"moe_intermediate_size": 32, "n_routed_experts": 6, "num_experts_per_tok": 2, "first_k_dense_replace": 1}
ERNIE_SIZES = {"moe_num_experts": 6, "moe_k": 2, "moe_intermediate_size": 32, "tie_word_embeddings": False}


def qwen2(gguf: GgufForm | None = QWEN2, **options: Any) -> Case:
    return Case(model_type="qwen2_moe", options=SMALL | {"shared_expert_intermediate_size": 48} | options, gguf=gguf)


def qwen3(gguf: GgufForm | None = QWEN3, **options: Any) -> Case:
    return Case(model_type="qwen3_moe", options=SMALL | {"head_dim": 32, "norm_topk_prob": True} | options, gguf=gguf)


def glm4(**options: Any) -> Case:
    return Case(model_type="glm4_moe", options=GLM | rope(partial_rotary_factor=0.5) | options, gguf=GLM4)


def ernie(gguf: GgufForm | None = ERNIE, **options: Any) -> Case:
    return Case(model_type="ernie4_5_moe", options=ERNIE_SIZES | options, gguf=gguf)


CASES: dict[str, Case] = {
    "dots1": Case(
        model_type="dots1",
        options=GLM | {"n_shared_experts": 2, "norm_topk_prob": True, "routed_scaling_factor": 1.5},
        gguf=DOTS,
    ),
    "dots1 windows": Case(
        model_type="dots1",
        options=GLM | {"n_shared_experts": 1, "sliding_window": 6, "max_window_layers": 1, "norm_topk_prob": False},
        changes={"layer_types": ...},
    ),
    "flex_olmo": Case(model_type="flex_olmo", options=EXPERTS),
    "minimax_m2": Case(
        model_type="minimax_m2", options=LOCAL | {"head_dim": 24} | rope(partial_rotary_factor=0.5), gguf=MINIMAX
    ),
    "minimax_m2 rotary_dim": Case(
        model_type="minimax_m2",
        options=LOCAL | {"head_dim": 24} | rope(partial_rotary_factor=0.5),
        changes={"rope_parameters": ..., "rotary_dim": 12, "rope_theta": 1000.0},
    ),
    "hunyuan_v1_moe": Case(
        model_type="hunyuan_v1_moe", options={"num_experts": 6, "moe_topk": 2, "head_dim": 24}, gguf=HUNYUAN
    ),
    "hunyuan_v1_moe lists": Case(
        model_type="hunyuan_v1_moe",
        options={"num_experts": 6, "moe_topk": [2] * 3, "head_dim": 16} | rope("dynamic", alpha=50.0, factor=1.0),
    ),
    "granitemoeshared": Case(
        model_type="granitemoeshared",
        options=LOCAL | GRANITE | {"shared_intermediate_size": 48},
        gguf=GRANITE_SHARED,
    ),
    "granitemoeshared none": Case(model_type="granitemoeshared", options=LOCAL | GRANITE),
    "qwen2_moe": qwen2(),
    "qwen2_moe normalised": qwen2(None, norm_topk_prob=True, decoder_sparse_step=2, qkv_bias=False),
    "qwen2_moe windows": qwen2(None, **WINDOW, max_window_layers=2, num_hidden_layers=4),
    "qwen2_moe old windows": Case(
        model_type="qwen2_moe",
        options=SMALL | {"shared_expert_intermediate_size": 48} | WINDOW | {"max_window_layers": 1},
        changes={"layer_types": ...},
    ),
    "qwen3_moe": qwen3(),
    "qwen3_moe dense layers": qwen3(None, norm_topk_prob=False, mlp_only_layers=[1]),
    "qwen3_moe window": qwen3(None, **WINDOW, attention_bias=True),
    "mixtral": Case(model_type="mixtral", options=LOCAL, gguf=MIXTRAL),
    "mixtral window": Case(model_type="mixtral", options=LOCAL | {"sliding_window": 6}, gguf=MIXTRAL),
    "mixtral of one": Case(model_type="mixtral", options=LOCAL | {"num_experts_per_tok": 1}, gguf=MIXTRAL),
    "olmoe": Case(model_type="olmoe", options=EXPERTS, gguf=OLMOE),
    "olmoe clipped": Case(
        model_type="olmoe", options=EXPERTS | {"clip_qkv": 0.5, "num_key_value_heads": 4}, gguf=OLMOE
    ),
    "olmoe normalised": Case(model_type="olmoe", options=EXPERTS | {"norm_topk_prob": True}),
    "granitemoe": Case(model_type="granitemoe", options=GRANITE | LOCAL, gguf=GRANITE_MOE),
    "glm4_moe": glm4(),
    "glm4_moe groups": glm4(n_routed_experts=8, n_group=4, topk_group=2, num_experts_per_tok=3, n_shared_experts=2),
    "glm4_moe norms": glm4(use_qk_norm=True, attention_bias=True, routed_scaling_factor=2.5, first_k_dense_replace=2),
    "glm4_moe shares": glm4(norm_topk_prob=False, routed_scaling_factor=1.5),
    "ernie4_5_moe": ernie(),
    "ernie4_5_moe biases": ernie(None, use_bias=True, moe_num_shared_experts=0, moe_layer_start_index=0),
    "ernie4_5_moe intervals": ernie(num_hidden_layers=4, moe_layer_interval=2, moe_layer_start_index=0),
    "llama4": Case(model_type="llama4_text", options=LLAMA4 | CHUNKS),
    "llama4 file": Case(model_type="llama4_text", options=LLAMA4, gguf=LLAMA4_GGUF),
    "llama4 without norms": Case(
        model_type="llama4_text",
        options=LLAMA4 | CHUNKS | {"use_qk_norm": False, "attn_temperature_tuning": False, "no_rope_layer_interval": 2},
    ),
    "phimoe": Case(model_type="phimoe", options=LOCAL, gguf=PHI),
    "phimoe long": Case(
        model_type="phimoe",
        options=LOCAL
        | rope(
            "longrope",
            long_factor=[1.0 + i for i in range(8)],
            short_factor=[1.0 + i / 8 for i in range(8)],
            original_max_position_embeddings=64,
            long_mscale=1.25,
            short_mscale=1.125,
        ),
        max_seq_len=64,
    ),
    "phimoe biases": Case(
        model_type="phimoe", options=LOCAL | {"attention_bias": True, "lm_head_bias": True, "sliding_window": 6}
    ),
}
