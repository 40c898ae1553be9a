"""Gemma's families: windows on most layers, norms on both sides, scaled embeddings, caps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tests.families.case import Case
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


CASES: dict[str, Case] = {
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
}  # fmt: skip
