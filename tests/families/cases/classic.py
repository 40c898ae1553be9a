"""Decoders with layer norms: parts side by side, learned positions, fused and transposed matrices."""

from __future__ import annotations

from typing import Any

import numpy as np

from tests.families.case import Case, legacy, rope
from tests.families.gguf_writer import GgufForm, Step, Tensors, plus_one, renamed, stacked, transposed


def apart(queries: str) -> Step:
    """Fused rows from groups of queries, a key and a value to all of each; queries: what holds how many a group has."""

    def step(tensors: Tensors, config: Any) -> Tensors:
        width = config.hidden_size // config.num_attention_heads
        count = getattr(config, queries) if queries else 1

        def rows(weight: np.ndarray) -> np.ndarray:
            groups = weight.reshape(-1, count + 2, width, *weight.shape[1:])
            parts = (groups[:, :count], groups[:, count : count + 1], groups[:, count + 1 :])
            return np.concatenate([part.reshape(-1, *weight.shape[1:]) for part in parts])

        return {name: rows(tensor) if "query_key_value" in name else tensor for name, tensor in tensors.items()}

    return step


def fused(tensors: Tensors, config: Any) -> Tensors:
    """Phi-2's q, k and v as one, as its first files have them."""
    result: Tensors = {}
    for name, tensor in tensors.items():
        if ".q_proj." in name:
            others = [tensors[name.replace(".q_proj.", f".{part}_proj.")] for part in "kv"]
            result[name.replace("self_attn.q_proj", "mixer.Wqkv")] = np.concatenate([tensor, *others])
        elif ".k_proj." not in name and ".v_proj." not in name:
            result[name] = tensor
    return result


COMMAND_R = GgufForm(arch="command-r", keys={"logit_scale": "logit_scale"})
COHERE2 = GgufForm(
    arch="cohere2", keys={"logit_scale": "logit_scale", "attention.sliding_window": "sliding_window"}
)  # fmt: skip
PHI2 = GgufForm(arch="phi2")
STABLELM = GgufForm(
    arch="stablelm",
    steps=(stacked(r"(.*_layernorm)\.norms\.(?P<expert>\d+)(\.weight)", r"\1\3"),),
    keys={"use_parallel_residual": lambda _: True},
)
STARCODER2 = GgufForm(arch="starcoder2", keys={"attention.sliding_window": lambda config: config.sliding_window or 0})
NEMOTRON = GgufForm(arch="nemotron", steps=(plus_one(),))
NEOX = GgufForm(
    arch="gptneox",
    steps=(apart(""),),
    keys={"use_parallel_residual": "use_parallel_residual", "attention.head_count_kv": None},
)
GPT_KEYS = {
    "feed_forward_length": lambda config: config.n_inner or 4 * config.n_embd,
    "attention.head_count_kv": None,
}
GPT2 = GgufForm(
    arch="gpt2", steps=(transposed(r"\.(c_attn|c_proj|c_fc)\.weight$"),), keys=GPT_KEYS
)  # fmt: skip
STARCODER = GgufForm(arch="starcoder", keys=GPT_KEYS | {"attention.head_count_kv": lambda _: 1})
FALCON_7B = GgufForm(
    arch="falcon",
    steps=(apart("num_attention_heads"),),
    keys={"feed_forward_length": "ffn_hidden_size", "attention.head_count_kv": lambda _: 1},
)
FALCON = GgufForm(
    arch="falcon",
    steps=(apart("num_kv_heads"),),
    keys={"feed_forward_length": "ffn_hidden_size", "attention.head_count_kv": "num_kv_heads"},
)
BLOOM = {"seq_length": 256, "intermediate_size": None}
BLOOM_GGUF = GgufForm(
    arch="bloom",
    steps=(apart(""), renamed(r"^transformer\.(.*)", r"\1")),
    keys={"feed_forward_length": lambda c: 4 * c.hidden_size},
)
MPT = GgufForm(
    arch="mpt",
    keys={
        "attention.clamp_kqv": lambda config: config.attn_config.clip_qkv,
        "attention.head_count_kv": None,
        "attention.max_alibi_bias": lambda config: float(config.attn_config.alibi_bias_max),
        "context_length": "max_seq_len",
        "feed_forward_length": lambda config: config.expansion_ratio * config.d_model,
    },
)
FALCON_GROUPS = {"new_decoder_architecture": True, "num_kv_heads": 2}
OWN_HEAD = {"tie_word_embeddings": False}
NO_GROUPS = {"num_key_value_heads": 4}


def cohere(**options: Any) -> Case:
    return Case(model_type="cohere", options={"logit_scale": 1.0} | options, gguf=COMMAND_R)


def cohere2(**options: Any) -> Case:
    return Case(
        model_type="cohere2", options={"logit_scale": 1.5, "num_hidden_layers": 5} | options, gguf=COHERE2
    )  # fmt: skip


CASES: dict[str, Case] = {
    "gpt_neo": Case(
        model_type="gpt_neo",
        options={"attention_types": [[["global", "local", "local"], 1]], "window_size": 6},
    ),
    "gpt_neo in turns": Case(
        model_type="gpt_neo",
        options={"attention_types": [[["global", "local"], 2]], "num_hidden_layers": 4, "window_size": 6},
        changes={"attention_layers": ...},
    ),
    "cohere": Case(model_type="cohere", options=OWN_HEAD | {"logit_scale": 0.5}),
    "cohere tied": cohere(),
    "cohere qk norm": cohere(use_qk_norm=True),
    "cohere biases": cohere(attention_bias=True, logit_scale=0.3),
    "cohere defaults": Case(
        model_type="cohere",
        changes={"logit_scale": ..., "layer_norm_eps": ..., "rope_parameters": ..., "tie_word_embeddings": ...}
        | {"model_max_length": 512},
    ),
    "cohere2": Case(model_type="cohere2", options=OWN_HEAD | {"sliding_window": 9, "logit_scale": 0.5}),
    "cohere2 tied": cohere2(sliding_window=6),
    "cohere2 wide window": cohere2(sliding_window=256),
    "cohere2 old": Case(
        model_type="cohere2",
        options={"sliding_window": 6, "num_hidden_layers": 5, "logit_scale": 1.0, "attention_bias": True},
        changes={"layer_types": ..., "rope_parameters": ..., "head_dim": ..., "sliding_window_pattern": 4},
    ),
    "phi": Case(model_type="phi", options=NO_GROUPS, gguf=PHI2),
    "phi fused": Case(
        model_type="phi",
        options=NO_GROUPS | rope(partial_rotary_factor=0.25),
        gguf=GgufForm(arch="phi2", steps=(fused,), names={r"(model\.layers\.(\d+)\.)mixer\.Wqkv": r"blk.\2.attn_qkv"}),
    ),
    "phi groups": Case(model_type="phi", options={"qk_layernorm": True}),
    "phi old": Case(
        model_type="phi", changes=legacy() | {"partial_rotary_factor": 0.25, "hidden_act": ..., "layer_norm_eps": ...}
    ),
    "stablelm": Case(model_type="stablelm", gguf=STABLELM),
    "stablelm biases": Case(
        model_type="stablelm", options={"use_qkv_bias": True} | rope(partial_rotary_factor=1.0), gguf=STABLELM
    ),
    "stablelm 12B": Case(
        model_type="stablelm", options={"use_parallel_residual": True, "qk_layernorm": True}, gguf=STABLELM
    ),
    "starcoder2": Case(model_type="starcoder2", options=OWN_HEAD | {"sliding_window": 7}, gguf=STARCODER2),
    "starcoder2 tied": Case(model_type="starcoder2", options={"use_bias": False}, gguf=STARCODER2),
    "falcon": Case(model_type="falcon", options=OWN_HEAD, gguf=FALCON_7B),
    "falcon tied": Case(model_type="falcon", gguf=FALCON_7B),
    "falcon 11B": Case(
        model_type="falcon", options=FALCON_GROUPS | {"num_ln_in_parallel_attn": 1, "ffn_hidden_size": 80}, gguf=FALCON
    ),
    "falcon 40B": Case(model_type="falcon", options=FALCON_GROUPS, gguf=FALCON),
    "falcon one after the other": Case(
        model_type="falcon", options={"multi_query": False, "bias": True, "parallel_attn": False}
    ),
    "gpt_neox": Case(
        model_type="gpt_neox", options=rope(partial_rotary_factor=0.5) | {"num_hidden_layers": 4}, gguf=NEOX
    ),
    "gpt_neox defaults": Case(model_type="gpt_neox", gguf=NEOX),
    "gpt_neox whole heads": Case(
        model_type="gpt_neox", options=rope(partial_rotary_factor=1.0) | {"tie_word_embeddings": True}, gguf=NEOX
    ),
    "gpt_neox one after the other": Case(
        model_type="gpt_neox", options={"use_parallel_residual": False, "attention_bias": False}, gguf=NEOX
    ),
    "gpt_neox old": Case(
        model_type="gpt_neox",
        options=rope(theta=500.0, partial_rotary_factor=0.5),
        changes={"rope_parameters": ..., "rotary_pct": 0.5, "rotary_emb_base": 500.0},
    ),
    "gpt2": Case(model_type="gpt2", options=OWN_HEAD, gguf=GPT2),
    "gpt2 tied": Case(model_type="gpt2", options={"n_inner": 80}, gguf=GPT2),
    "gpt2 scales": Case(
        model_type="gpt2", options={"scale_attn_by_inverse_layer_idx": True, "reorder_and_upcast_attn": True}
    ),
    "gpt2 unscaled": Case(model_type="gpt2", options={"scale_attn_weights": False}),
    "gpt_bigcode": Case(model_type="gpt_bigcode", options=OWN_HEAD, gguf=STARCODER),
    "gpt_bigcode tied": Case(model_type="gpt_bigcode", gguf=STARCODER),
    "gpt_bigcode own keys": Case(model_type="gpt_bigcode", options={"multi_query": False, "n_inner": 80}),
    "bloom": Case(model_type="bloom", options=OWN_HEAD | BLOOM, gguf=BLOOM_GGUF),
    "bloom six heads": Case(
        model_type="bloom", options=BLOOM | {"num_attention_heads": 6, "hidden_size": 96}, gguf=BLOOM_GGUF
    ),
    "mpt": Case(model_type="mpt", options=OWN_HEAD | {"max_seq_len": 256}, gguf=MPT),
    "mpt clipped": Case(
        model_type="mpt",
        options={"max_seq_len": 256, "num_attention_heads": 6, "hidden_size": 96}
        | {"attn_config": {"clip_qkv": 1.5, "softmax_scale": 0.3}},
    ),
    "codegen": Case(model_type="codegen", options={"rotary_dim": 8}),
    "gptj": Case(model_type="gptj", options={"rotary_dim": 8}),
    "nemotron": Case(model_type="nemotron", gguf=NEMOTRON),
    "nemotron biases": Case(
        model_type="nemotron",
        options={"attention_bias": True, "mlp_bias": True, "head_dim": 24} | rope(partial_rotary_factor=1.0),
        gguf=NEMOTRON,
    ),
    "opt": Case(model_type="opt", options=OWN_HEAD | {"ffn_dim": 96}),
    "opt tied": Case(model_type="opt"),
    "opt no biases": Case(
        model_type="opt",
        options={"ffn_dim": 96, "enable_bias": False, "activation_function": "gelu"},
    ),
}
