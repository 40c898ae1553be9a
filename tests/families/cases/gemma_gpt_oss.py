"""Gemma's families: windows on most layers, norms on both sides, scaled embeddings, caps."""

from __future__ import annotations

from tests.families.case import Case
from tests.families.gguf_writer import GgufForm, plus_one

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
}  # fmt: skip
