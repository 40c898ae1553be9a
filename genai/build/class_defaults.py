"""What a configuration means by a key that it leaves out: the defaults of its class in transformers, as data.

Text decoders inside of others are saved without the keys that equal these; a test holds the table against transformers.
"""

from __future__ import annotations

from collections.abc import Mapping

from genai.build.source import JSON

_COLUMNS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "head_dim",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
)
_ROWS: Mapping[str, tuple[int | float | None, ...]] = {
    "cohere2": (256000, 8192, 22528, 40, 64, None, None, 8192, None, 10_000.0),
    "gemma3_text": (262208, 2304, 9216, 26, 8, 4, 256, 131072, 1e-6, 1_000_000.0),
    "glm4v_text": (151552, 4096, 13696, 40, 32, 2, None, 32768, 1e-5, 10_000.0),
    "lfm2": (65536, 2560, 12288, 32, 32, 8, None, 128000, None, 1_000_000.0),
    "llama": (32000, 4096, 11008, 32, 32, None, None, 2048, 1e-6, 10_000.0),
    "llama4_text": (202048, 5120, 8192, 48, 40, 8, 128, 131072, 1e-5, 500_000.0),
    "ministral3": (131072, 4096, 14336, 34, 32, 8, 128, 262144, 1e-5, 10_000.0),
    "mistral": (32000, 4096, 14336, 32, 32, 8, None, 131072, 1e-6, 10_000.0),
    "qwen2": (151936, 4096, 22016, 32, 32, 32, None, 32768, 1e-6, 10_000.0),
    "qwen2_5_vl_text": (152064, 8192, 29568, 80, 64, 8, None, 32768, 1e-5, 1_000_000.0),
    "qwen2_vl_text": (152064, 8192, 29568, 80, 64, 8, None, 32768, 1e-5, 1_000_000.0),
    "qwen3": (151936, 4096, 22016, 32, 32, 32, 128, 32768, 1e-6, 10_000.0),
    "qwen3_5_moe_text": (248320, 2048, None, 40, 16, 2, 256, 32768, 1e-6, 10_000.0),
    "qwen3_5_text": (248320, 4096, 12288, 32, 16, 4, 256, 32768, 1e-6, 10_000.0),
    "qwen3_vl_text": (151936, 4096, 22016, 32, 32, 32, 128, 128000, 1e-6, 500_000.0),
}
_MORE: Mapping[str, Mapping[str, JSON]] = {
    "qwen3_5_moe_text": {
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 512,
        "shared_expert_intermediate_size": 512,
    },
    "gemma3_text": {
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": 256,
        "rope_local_base_freq": 10_000.0,
        "sliding_window": 4096,
        "tie_word_embeddings": True,
    },
}
_IN_ROPE_PARAMETERS = frozenset({"rope_theta", "rope_local_base_freq"})

MODEL_TYPES = frozenset(_ROWS)
"""The model types whose defaults are known."""


def completed(model_type: str, config: Mapping[str, JSON]) -> dict[str, JSON]:
    """A configuration with what its class would fill in; one whose class is not here stays as it is.

    `rope_parameters` say in the newer way what two older keys said, which are left out beside them.
    """
    if model_type not in _ROWS:
        return dict(config)
    defaults: dict[str, JSON] = {**dict(zip(_COLUMNS, _ROWS[model_type], strict=True)), **_MORE.get(model_type, {})}
    superseded = _IN_ROPE_PARAMETERS if config.get("rope_parameters") else frozenset()
    return {key: value for key, value in defaults.items() if key not in superseded} | dict(config)
