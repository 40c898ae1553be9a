"""GLM-4.7-Flash: DeepSeek V3 with other sizes, whose configuration may list the layers that have experts."""

from __future__ import annotations

from genai.build.architectures.config import ConfigReader
from genai.build.architectures.experts import corrected_sigmoid, predicting_form
from genai.build.architectures.latent import latent_decoder
from genai.build.source import JSON
from genai.build.spec import DecoderSpec
from genai.errors import UnsupportedModelError

_DEFAULTS: dict[str, JSON] = {
    "rms_norm_eps": 1e-5,
    "q_lora_rank": 768,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64,
    "v_head_dim": 256,
    "rope_interleave": True,
    "n_routed_experts": 64,
    "n_shared_experts": 1,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 1536,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1.8,
    "first_k_dense_replace": 1,
}
_KINDS = ("dense", "sparse")
stored_form = predicting_form


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Experts where `mlp_layer_types` says so, else from `first_k_dense_replace` on."""
    config = config.with_defaults(_DEFAULTS)
    first, count = config.count("first_k_dense_replace"), config.num_layers
    kinds = config.items("mlp_layer_types", count) or [_KINDS[layer >= first] for layer in range(count)]
    if unknown := next((kind for kind in kinds if kind not in _KINDS), None):
        raise UnsupportedModelError(f"mlp_layer_types has {unknown!r}; supported: {', '.join(_KINDS)}")
    layers = [layer for layer, kind in enumerate(kinds) if kind == "sparse"]
    return latent_decoder(config, corrected_sigmoid(config), layers)
