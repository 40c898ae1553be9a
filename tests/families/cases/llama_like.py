"""Pre-norm or post-norm decoders with RMS norms and gated MLPs: Llama's shape."""

from __future__ import annotations

from typing import Any

from tests.families.case import LLAMA3, YARN, Case, legacy, rope
from tests.families.gguf_writer import PAIRED, GgufForm

LONG = {"long_factor": [1.0 + i for i in range(6)], "short_factor": [1.0 + i / 8 for i in range(6)]}
PHI = {"partial_rotary_factor": 0.75, "original_max_position_embeddings": 32}
WINDOWED = {"use_sliding_window": True, "sliding_window": 6}
GRANITE = {
    "attention_multiplier": 0.4, "embedding_multiplier": 3.0, "residual_multiplier": 0.6, "logits_scaling": 0.5,
}  # fmt: skip

LLAMA = GgufForm(arch="llama", steps=PAIRED)
MISTRAL = GgufForm(arch="llama", steps=PAIRED, keys={"attention.sliding_window": "sliding_window"})
QWEN2 = GgufForm(arch="qwen2")
QWEN3 = GgufForm(arch="qwen3")
PHI3 = GgufForm(arch="phi3", keys={"attention.sliding_window": lambda config: config.sliding_window or 0})
SMOLLM3 = GgufForm(arch="smollm3", steps=PAIRED)
OLMO2 = GgufForm(arch="olmo2")
GRANITE_GGUF = GgufForm(
    arch="granite",
    steps=PAIRED,
    keys={
        "attention.scale": "attention_multiplier",
        "embedding_scale": "embedding_multiplier",
        "residual_scale": "residual_multiplier",
        "logit_scale": "logits_scaling",
    },
)


def llama(gguf: GgufForm | None = LLAMA, **options: Any) -> Case:
    return Case(model_type="llama", options=options, gguf=gguf)


CASES: dict[str, Case] = {
    "llama": Case(model_type="llama", options={"head_dim": 24} | rope(), gguf=LLAMA, real="tests/llm/test_smollm2.py"),
    "llama tied": llama(tie_word_embeddings=True),
    "llama biases": llama(attention_bias=True, mlp_bias=True),
    "llama default head size": llama(),
    "llama odd sizes": llama(hidden_size=60, head_dim=10, intermediate_size=77),
    "llama one key head": llama(num_key_value_heads=1),
    "llama all key heads": llama(num_key_value_heads=4),
    "llama base": llama(**rope(theta=77.0)),
    "llama old base": Case(model_type="llama", options=rope(theta=77.0), changes=legacy(77.0)),
    "llama linear": llama(**rope("linear", factor=4.0)),
    "llama old linear": Case(model_type="llama", changes=legacy(type="linear", factor=4.0)),
    "llama llama3": llama(**rope("llama3", **LLAMA3)),
    "llama old llama3": Case(model_type="llama", changes=legacy(rope_type="llama3", **LLAMA3)),
    "llama yarn": llama(**rope("yarn", **YARN)),
    "llama yarn, all keys": llama(**rope("yarn", **YARN, beta_fast=16.0, beta_slow=2.0, attention_factor=1.25)),
    "llama old yarn": Case(model_type="llama", changes=legacy(type="yarn", **YARN)),
    "mistral": Case(model_type="mistral", options={"sliding_window": 7}, gguf=MISTRAL),
    "mistral no window": Case(model_type="mistral", options={"sliding_window": None}),
    "mistral head size": Case(model_type="mistral", options={"sliding_window": 16, "head_dim": 32}, gguf=MISTRAL),
    "mistral wide window": Case(model_type="mistral", options={"sliding_window": 256}),
    "qwen2": Case(model_type="qwen2", gguf=QWEN2),
    "qwen2 tied": Case(model_type="qwen2", options={"tie_word_embeddings": True}, gguf=QWEN2),
    "qwen2 windows": Case(model_type="qwen2", options=WINDOWED | {"max_window_layers": 1}),
    "qwen2 old windows": Case(
        model_type="qwen2", options=WINDOWED | {"max_window_layers": 2}, changes={"layer_types": ...}
    ),
    "qwen2 unused window": Case(model_type="qwen2", changes={"sliding_window": 6, "use_sliding_window": False}),
    "qwen3": Case(model_type="qwen3", options={"head_dim": 32}, gguf=QWEN3),
    "qwen3 tied": Case(model_type="qwen3", options={"head_dim": 16, "tie_word_embeddings": True}, gguf=QWEN3),
    "qwen3 default head size": Case(model_type="qwen3", changes={"head_dim": ...}),
    "qwen3 windows": Case(
        model_type="qwen3",
        options=WINDOWED | {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]},
    ),
    "qwen3 biases": Case(model_type="qwen3", options={"attention_bias": True}),
    "phi3": Case(model_type="phi3", gguf=PHI3),
    "phi3 window": Case(model_type="phi3", options={"sliding_window": 8}, gguf=PHI3),
    "phi3 partial": Case(model_type="phi3", options=PHI | rope("default", partial_rotary_factor=0.5), gguf=PHI3),
    "phi3 long": Case(model_type="phi3", options=PHI | rope("longrope", **LONG), lengths=(40, 39, 45), gguf=PHI3),
    "phi3 short": Case(
        model_type="phi3", options=PHI | rope("longrope", **LONG), lengths=(32, 9, 23), max_seq_len=32, gguf=PHI3
    ),
    "phi3 old": Case(model_type="phi3", changes=PHI | legacy(type="longrope", **LONG), lengths=(40, 39, 45)),
    "phi3 oldest": Case(
        model_type="phi3",
        changes=PHI | legacy(type="su", original_max_position_embeddings=32, **LONG),
        lengths=(40, 39, 45),
    ),
    "smollm3": Case(model_type="smollm3", options={"num_hidden_layers": 5}, gguf=SMOLLM3),
    "smollm3 layers": Case(model_type="smollm3", options={"no_rope_layers": [0, 1, 0]}),
    "smollm3 windows": Case(model_type="smollm3", options=WINDOWED | {"no_rope_layers": [1, 0, 1]}),
    "smollm3 old": Case(
        model_type="smollm3",
        options=WINDOWED | {"no_rope_layer_interval": 2},
        changes={"layer_types": ..., "no_rope_layers": ..., "tie_word_embeddings": ..., "rope_parameters": ...},
    ),
    "smollm3 untied": Case(model_type="smollm3", options={"tie_word_embeddings": False, "attention_bias": True}),
    "olmo2": Case(model_type="olmo2", gguf=OLMO2),
    "olmo2 biases": Case(model_type="olmo2", options={"attention_bias": True, "tie_word_embeddings": True}, gguf=OLMO2),
    "olmo2 default epsilon": Case(model_type="olmo2", changes={"rms_norm_eps": ...}),
    "granite": Case(model_type="granite", options=GRANITE, gguf=GRANITE_GGUF),
    "granite biases": Case(
        model_type="granite",
        options=GRANITE | {"attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
        gguf=GRANITE_GGUF,
    ),
    "granite defaults": Case(model_type="granite", changes=dict.fromkeys(GRANITE, ...)),
}
