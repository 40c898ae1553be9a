"""Gemma's families, and gpt-oss: windows on some layers, caches that differ or begin with a reserved slot."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tests.families.case import Case, rope
from tests.families.gguf_writer import GgufForm, Tensors, plus_one

GEMMA3 = {
    "head_dim": 32,
    "num_hidden_layers": 7,
    "sliding_window": 5,
    "query_pre_attn_scalar": 24,
    "rope_parameters": {
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 100_000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
    },
}
IN_GGUF = {"query_pre_attn_scalar": 32}
"""Files do not hold it: it is the head size in all models but one."""
GEMMA3_GGUF = GgufForm(
    arch="gemma3",
    steps=(plus_one(),),
    keys={
        "attention.sliding_window": "sliding_window",
        "final_logit_softcapping": "final_logit_softcapping",
    },
)
GEMMA4 = {
    "head_dim": 16,
    "global_head_dim": 32,
    "num_hidden_layers": 8,
    "layer_types": [
        "sliding_attention", "sliding_attention", "full_attention", "sliding_attention", "full_attention",
        "sliding_attention", "sliding_attention", "full_attention",
    ],
    "sliding_window": 5,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": 300,
    "num_kv_shared_layers": 3,
    "tie_word_embeddings": False,
}  # fmt: skip
"""Layers 5 and 6 read the keys of layer 3, layer 7 those of layer 4."""
BARE = {"hidden_size_per_layer_input": 0, "num_kv_shared_layers": 0, "attention_k_eq_v": True}
"""The larger models: no embeddings by layer, no shared keys, values that are keys."""


def by_layer(key: str, usual: str) -> Callable[[Any], list[int]]:
    """A list of what each layer has, from where transformers keeps what is not as usual."""
    return lambda config: [
        getattr(config.per_layer_config[layer], key, getattr(config, usual))
        for layer in range(config.num_hidden_layers)
    ]


def proportional(tensors: Tensors, config: Any) -> Tensors:
    """What frequencies of full layers are divided by: nearly infinite numbers where they do not rotate."""
    count = max(by_layer("head_dim", "head_dim")(config)) // 2
    rotated = int(count * config.rope_parameters["full_attention"]["partial_rotary_factor"])
    return tensors | {"rope_freqs.weight": np.array([1.0] * rotated + [1e30] * (count - rotated), np.float32)}


def widths(config: Any) -> list[int] | int:
    own, shared = config.num_hidden_layers - config.num_kv_shared_layers, config.num_kv_shared_layers
    size = config.intermediate_size
    return [size] * own + [2 * size] * shared if config.use_double_wide_mlp else size


GEMMA4_GGUF = GgufForm(
    arch="gemma4",
    steps=(proportional,),
    names={
        r"rope_freqs\.weight": "rope_freqs.weight",
        r"model\.embed_tokens_per_layer": "per_layer_token_embd",
        r"model\.per_layer_model_projection": "per_layer_model_proj",
        r"model\.per_layer_projection_norm": "per_layer_proj_norm",
    },
    keys={
        "attention.sliding_window": "sliding_window",
        "attention.sliding_window_pattern": lambda config: [kind == "sliding_attention" for kind in config.layer_types],
        "attention.shared_kv_layers": "num_kv_shared_layers",
        "attention.key_length": lambda config: max(by_layer("head_dim", "head_dim")(config)),
        "attention.value_length": lambda config: max(by_layer("head_dim", "head_dim")(config)),
        "attention.key_length_swa": "head_dim",
        "attention.value_length_swa": "head_dim",
        "attention.head_count_kv": by_layer("num_key_value_heads", "num_key_value_heads"),
        "rope.dimension_count": lambda config: max(by_layer("head_dim", "head_dim")(config)),
        "rope.dimension_count_swa": "head_dim",
        "embedding_length_per_layer_input": "hidden_size_per_layer_input",
        "feed_forward_length": widths,
        "final_logit_softcapping": "final_logit_softcapping",
    },
)


def gemma4(gguf: GgufForm | None = GEMMA4_GGUF, changes: Mapping[str, Any] | None = None, **options: Any) -> Case:
    return Case(model_type="gemma4_text", options=GEMMA4 | options, gguf=gguf, changes=changes or {})


GPT_OSS = {
    "head_dim": 16,
    "num_attention_heads": 8,
    "num_hidden_layers": 4,
    "num_local_experts": 6,
    "num_experts_per_tok": 2,
    "sliding_window": 5,
} | rope("yarn", factor=4.0, beta_fast=4.0, original_max_position_embeddings=32, truncate=False)


def experts_apart(tensors: Tensors, config: Any) -> Tensors:
    """Stacks of gate and up, whose columns alternate, become a stack each, all as [out, in]."""
    result: Tensors = {}
    for name, tensor in tensors.items():
        module, _, kind = name.partition("_proj")
        if ".experts." not in name:
            result[name] = tensor
            continue
        rows, end = (tensor, ".bias") if kind == "_bias" else (tensor.swapaxes(-1, -2), ".weight")
        if not module.endswith("gate_up"):
            result[f"{module}_proj{end}"] = rows
            continue
        for index, part in enumerate(("gate", "up")):
            result[f"{module.removesuffix('gate_up')}{part}_proj{end}"] = rows[:, index::2]
    return result


GPT_OSS_GGUF = GgufForm(
    arch="gpt-oss",
    steps=(experts_apart,),
    keys={
        "attention.sliding_window": "sliding_window",
        "expert_count": "num_local_experts",
        "expert_used_count": "num_experts_per_tok",
        "expert_feed_forward_length": "intermediate_size",
    },
)


def gpt_oss(gguf: GgufForm | None = GPT_OSS_GGUF, changes: Mapping[str, Any] | None = None, **options: Any) -> Case:
    return Case(model_type="gpt_oss", options=GPT_OSS | options, gguf=gguf, changes=changes or {})


CASES: dict[str, Case] = {
    "gemma": Case(model_type="gemma", options={"head_dim": 24, "tie_word_embeddings": False}),
    "gemma tied": Case(
        model_type="gemma", options={"head_dim": 24}, gguf=GgufForm(arch="gemma", steps=(plus_one(),))
    ),
    "gemma published": Case(
        model_type="gemma",
        options={"head_dim": 256, "num_attention_heads": 2, "num_key_value_heads": 1},
        changes={"hidden_act": "gelu", "hidden_activation": None, "head_dim": ..., "tie_word_embeddings": ...},
    ),
    "vaultgemma": Case(
        model_type="vaultgemma", options={"head_dim": 24, "sliding_window": 6, "tie_word_embeddings": False}
    ),
    "gemma3 untied": Case(
        model_type="gemma3_text", options=GEMMA3 | {"tie_word_embeddings": False}, real="tests/llm/test_gemma.py"
    ),
    "gemma3": Case(model_type="gemma3_text", options=GEMMA3),
    "gemma3 head size": Case(model_type="gemma3_text", options=GEMMA3 | IN_GGUF, gguf=GEMMA3_GGUF),
    "gemma3 softcap": Case(
        model_type="gemma3_text", options=GEMMA3 | IN_GGUF | {"final_logit_softcapping": 5.0}, gguf=GEMMA3_GGUF
    ),
    "gemma3 old": Case(
        model_type="gemma3_text",
        options=GEMMA3,
        changes={
            "rope_parameters": ..., "layer_types": ..., "sliding_window_pattern": 3, "rope_theta": 100_000.0,
            "rope_local_base_freq": 500.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        },
    ),
    "gemma3 defaults": Case(
        model_type="gemma3_text",
        options={"head_dim": 16, "query_pre_attn_scalar": 256, "sliding_window": 9},
        changes={"rope_parameters": ..., "layer_types": ..., "tie_word_embeddings": ..., "query_pre_attn_scalar": ...},
    ),
    "gemma4": gemma4(),
    "gemma4 wide": gemma4(use_double_wide_mlp=True, tie_word_embeddings=True, final_logit_softcapping=5.0),
    "gemma4 own keys": gemma4(num_kv_shared_layers=0, num_key_value_heads=4),
    "gemma4 bare": gemma4(**BARE),
    "gemma4 bare, one key head": gemma4(**BARE, num_global_key_value_heads=1, num_key_value_heads=4),
    "gemma4 shared values": gemma4(attention_k_eq_v=True, num_global_key_value_heads=1),
    "gemma4 biases": gemma4(None, attention_bias=True),
    "gemma4 wide window": gemma4(sliding_window=512),
    "gemma4 old": gemma4(
        None,
        {
            "per_layer_config": ..., "global_head_dim": 32, "num_global_key_value_heads": 1, "layer_types": ...,
            "tie_word_embeddings": ..., "rope_parameters": ...,
        },
        layer_types=None, num_hidden_layers=12, num_kv_shared_layers=2, num_global_key_value_heads=1,
        attention_k_eq_v=True, tie_word_embeddings=True,
    ),
    "gpt_oss": gpt_oss(),
    "gpt_oss one key head": gpt_oss(num_key_value_heads=1),
    "gpt_oss all key heads": gpt_oss(num_key_value_heads=8, tie_word_embeddings=True),
    "gpt_oss wide window": gpt_oss(sliding_window=512),
    "gpt_oss without biases": gpt_oss(None, attention_bias=False, swiglu_alpha=1.2, swiglu_limit=1.5),
    "gpt_oss defaults": gpt_oss(
        None, {"rope_parameters": ..., "layer_types": ..., "attention_bias": ..., "swiglu_limit": ...}
    ),
}  # fmt: skip
