"""Dense decoders with RMS norms that differ from Llama by more than its configuration keys say."""

from __future__ import annotations

from typing import Any

from tests.families.case import LLAMA3, YARN, Case, legacy, rope
from tests.families.cases.classic import fused
from tests.families.gguf_writer import PAIRED, GgufForm, plus_one, renamed

GEMMA2 = {
    "head_dim": 24, "num_hidden_layers": 4, "sliding_window": 6, "query_pre_attn_scalar": 20,
    "attn_logit_softcapping": 4.0, "final_logit_softcapping": 5.0,
}  # fmt: skip
OLMO3_ROPE = {
    "full_attention": {"rope_type": "yarn", "rope_theta": 1000.0, **YARN},
    "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
}
TEMPERED = rope(
    "yarn", factor=16.0, original_max_position_embeddings=8, beta_fast=32.0, beta_slow=1.0, mscale=1.0,
    mscale_all_dim=1.0, llama_4_scaling_beta=0.4,
)  # fmt: skip
ALPHA = {"type": "dynamic", "alpha": 50.0, "factor": 1.0, "mscale": 1.0, "mscale_all_dim": 0.0}

SLIDING = {
    "attention.sliding_window": "sliding_window",
    "attention.sliding_window_pattern": lambda config: [kind == "sliding_attention" for kind in config.layer_types],
}


def stretched(config: Any) -> float:
    """The rotary base that Hunyuan's alpha makes, which the converter works out."""
    rotary = config.rope_parameters
    return float(rotary["rope_theta"] * rotary.get("alpha", 1.0) ** (config.head_dim / (config.head_dim - 2)))


GEMMA2_GGUF = GgufForm(
    arch="gemma2",
    steps=(plus_one(),),
    keys={
        "attention.sliding_window": "sliding_window",
        "attn_logit_softcapping": "attn_logit_softcapping",
        "final_logit_softcapping": "final_logit_softcapping",
    },
)
OLMO3 = GgufForm(arch="olmo2", keys=SLIDING)
EXAONE4 = GgufForm(arch="exaone4", keys=SLIDING)
EXAONE4_FULL = GgufForm(arch="exaone4")
SEED_OSS = GgufForm(arch="seed_oss")
ARCEE = GgufForm(arch="arcee", steps=PAIRED)
MISTRAL3 = GgufForm(
    arch="mistral3",
    steps=PAIRED,
    keys={
        "rope.scaling.yarn_log_multiplier": lambda config: config.rope_parameters.get("mscale_all_dim"),
        "attention.temperature_scale": lambda config: config.rope_parameters.get("llama_4_scaling_beta"),
    },
)
CHATGLM = GgufForm(arch="chatglm")
GLM4 = GgufForm(arch="glm4")
ERNIE4_5 = GgufForm(arch="ernie4_5")
HUNYUAN = GgufForm(
    arch="hunyuan-dense",
    steps=(renamed(r"query_layernorm", "q_norm"), renamed(r"key_layernorm", "k_norm")),
    keys={"rope.freq_base": stretched, "rope.scaling.type": lambda _: "none"},
)
APERTUS = GgufForm(
    arch="apertus",
    steps=(
        renamed("attention_layernorm", "input_layernorm"),
        renamed("feedforward_layernorm", "post_attention_layernorm"),
    ),
    numbers={f"xielu.{name}": rf"act_fn\.{name}$" for name in ("alpha_p", "alpha_n", "beta", "eps")},
)


MULTIPLIED = {
    "embedding_multiplier": 3.0, "residual_multiplier": 0.6, "logits_scaling": 0.5, "attention_multiplier": 0.4,
}  # fmt: skip

CASES: dict[str, Case] = {
    "gemma2": Case(model_type="gemma2", options=GEMMA2 | {"tie_word_embeddings": False}),
    "gemma2 head size": Case(model_type="gemma2", options=GEMMA2 | {"query_pre_attn_scalar": 24}, gguf=GEMMA2_GGUF),
    "gemma2 untied, defaults": Case(
        model_type="gemma2",
        options={"head_dim": 24, "sliding_window": 6, "tie_word_embeddings": False},
        changes={
            "layer_types": ..., "rope_parameters": ..., "attn_logit_softcapping": ..., "final_logit_softcapping": ...,
            "query_pre_attn_scalar": ..., "hidden_activation": ...,
        },
    ),
    "olmo3": Case(
        model_type="olmo3",
        options={"num_hidden_layers": 5, "sliding_window": 6, "rope_parameters": OLMO3_ROPE},
        gguf=OLMO3,
    ),
    "olmo3 old": Case(
        model_type="olmo3",
        options={"num_hidden_layers": 5, "sliding_window": 6},
        changes={"rope_parameters": ..., "layer_types": ..., "rope_scaling": {"rope_type": "yarn", **YARN}},
    ),
    "olmo3 wide window": Case(
        model_type="olmo3", options={"sliding_window": 256, "rope_parameters": OLMO3_ROPE}, gguf=OLMO3
    ),
    "exaone4": Case(
        model_type="exaone4",
        options={"num_hidden_layers": 5, "sliding_window": 6, "head_dim": 24} | rope("llama3", **LLAMA3),
        gguf=EXAONE4,
    ),
    "exaone4 wide window": Case(
        model_type="exaone4", options={"num_hidden_layers": 4, "sliding_window": 256}, gguf=EXAONE4
    ),
    "exaone4 pattern": Case(
        model_type="exaone4",
        options={"num_hidden_layers": 5, "sliding_window": 6, "sliding_window_pattern": 3},
        changes={"layer_types": ...},
    ),
    "exaone4 no window": Case(
        model_type="exaone4",
        options={"sliding_window": None, "layer_types": ["full_attention"] * 3, "tie_word_embeddings": True}
        | rope("llama3", **LLAMA3),
        gguf=EXAONE4_FULL,
    ),
    "seed_oss": Case(model_type="seed_oss", options={"head_dim": 24}, gguf=SEED_OSS),
    "seed_oss all biases": Case(
        model_type="seed_oss", options={"attention_out_bias": True, "mlp_bias": True}, gguf=SEED_OSS
    ),
    "arcee": Case(model_type="arcee", options={"head_dim": 24} | rope("yarn", **YARN), gguf=ARCEE),
    "arcee biases": Case(model_type="arcee", options={"mlp_bias": True, "attention_bias": True}, gguf=ARCEE),
    "apertus": Case(model_type="apertus", options=rope("llama3", **LLAMA3), gguf=APERTUS),
    "apertus old": Case(model_type="apertus", changes=legacy(1000.0, rope_type="llama3", **LLAMA3), gguf=APERTUS),
    "apertus defaults": Case(model_type="apertus", changes={"rope_parameters": ...}),
    "ministral3": Case(model_type="ministral3", options={"head_dim": 24} | TEMPERED, gguf=MISTRAL3),
    "ministral3 window": Case(model_type="ministral3", options={"sliding_window": 6} | TEMPERED),
    "ministral3 even temperature": Case(
        model_type="ministral3", options=rope("yarn", **YARN, llama_4_scaling_beta=0.0), gguf=MISTRAL3
    ),
    "glm": Case(model_type="glm", options={"head_dim": 24}, gguf=CHATGLM),
    "glm fused": Case(
        model_type="glm",
        options={"head_dim": 24},
        gguf=GgufForm(
            arch="chatglm", steps=(fused,), names={r"(model\.layers\.(\d+)\.)mixer\.Wqkv": r"blk.\2.attn_qkv"}
        ),
    ),
    "glm4": Case(model_type="glm4", options={"head_dim": 24}, gguf=GLM4),
    "glm4 three quarters": Case(
        model_type="glm4",
        options={"head_dim": 16, "attention_bias": False} | rope(partial_rotary_factor=0.75),
        gguf=GLM4,
    ),
    "ernie4_5": Case(
        model_type="ernie4_5", options={"head_dim": 24, "use_bias": True, "tie_word_embeddings": False}, gguf=ERNIE4_5
    ),
    "ernie4_5 defaults": Case(
        model_type="ernie4_5",
        options={"head_dim": 24},
        changes={"rope_parameters": ..., "tie_word_embeddings": ..., "use_bias": ...},
        gguf=ERNIE4_5,
    ),
    "hunyuan": Case(
        model_type="hunyuan_v1_dense",
        options={"head_dim": 24} | rope("dynamic", alpha=50.0, factor=1.0),
        gguf=HUNYUAN,
    ),
    "hunyuan old": Case(
        model_type="hunyuan_v1_dense",
        options={"head_dim": 16, "attention_bias": True, "tie_word_embeddings": True},
        changes=legacy(1000.0, **ALPHA),
        gguf=HUNYUAN,
    ),
    "exaone": Case(
        model_type="exaone", options={"head_dim": 16} | rope("llama3", **LLAMA3), gguf=GgufForm(arch="exaone")
    ),
    "jais2": Case(model_type="jais2", gguf=GgufForm(arch="jais2")),
    "jais2 without biases": Case(
        model_type="jais2", options={"attention_bias": False, "mlp_bias": False}, gguf=GgufForm(arch="jais2")
    ),
    "cwm": Case(
        model_type="cwm",
        options={"head_dim": 16, "sliding_window": 6, "num_hidden_layers": 5},
        changes={"layer_types": ..., "rope_parameters": ...},
    ),
    "ministral": Case(
        model_type="ministral",
        options={
            "head_dim": 24, "sliding_window": 6,
            "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        },
    ),
    "internlm3": Case(
        model_type="internlm3",
        options={"attention_bias": True, "mlp_bias": True} | rope("dynamic", factor=6.0),
        changes={"attention_bias": ..., "mlp_bias": ..., "qkv_bias": True, "bias": True},
    ),
    "iquestcoder": Case(model_type="iquestcoder", options={"head_dim": 16}),
    "hyperclovax": Case(model_type="hyperclovax", options=MULTIPLIED),
    "hyperclovax one norm": Case(model_type="hyperclovax", options={"use_post_norm": False}),
    "helium": Case(model_type="helium", options={"head_dim": 16, "attention_bias": True, "mlp_bias": True}),
}  # fmt: skip
