"""DeepSeek V3 and R1: latent attention, dense first layers, then experts chosen by corrected sigmoid scores."""

from __future__ import annotations

from genai.build.architectures.config import ConfigReader
from genai.build.architectures.experts import corrected_sigmoid, predicting_form
from genai.build.architectures.latent import latent_decoder
from genai.build.source import JSON
from genai.build.spec import DecoderSpec

_DEFAULTS: dict[str, JSON] = {
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "rope_interleave": True,
    "n_routed_experts": 256,
    "n_shared_experts": 1,
    "num_experts_per_tok": 8,
    "moe_intermediate_size": 2048,
    "n_group": 8,
    "topk_group": 4,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "first_k_dense_replace": 3,
}
stored_form = predicting_form


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Experts from `first_k_dense_replace` on, beside one that all tokens go through."""
    config = config.with_defaults(_DEFAULTS)
    layers = range(config.count("first_k_dense_replace"), config.num_layers)
    return latent_decoder(config, corrected_sigmoid(config), layers)
