"""MiniCPM3: latent attention in a dense decoder with Granite's kind of multipliers, halves of heads rotated."""

from __future__ import annotations

import dataclasses

from genai.build.architectures.config import ConfigReader
from genai.build.architectures.latent import latent_attention
from genai.build.source import JSON
from genai.build.spec import DecoderSpec

_DEFAULTS: dict[str, JSON] = {
    "q_lora_rank": 768,
    "kv_lora_rank": 256,
    "qk_nope_head_dim": 64,
    "qk_rope_head_dim": 32,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": True,
    "scale_emb": 12,
    "scale_depth": 1.4,
    "dim_model_base": 256,
}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Additions are scaled by the root of the depth, logits by the width; a null means 1, as a scale."""
    config = config.with_defaults(_DEFAULTS).replaced({"rope_interleave": False})
    width, depth = config.size("hidden_size"), config.num_layers**0.5
    value_size = config.size("v_head_dim", width // config.size("num_attention_heads"))
    config = config.replaced({"v_head_dim": value_size})
    return dataclasses.replace(
        config.decoder([latent_attention(config)] * config.num_layers),
        embedding_scale=config.positive("scale_emb", 1.0),
        residual_scale=config.positive("scale_depth", depth) / depth,
        logits_scale=config.size("dim_model_base", width) / width,
    )
