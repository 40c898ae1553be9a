"""Youtu-LLM: DeepSeek's latent attention in a dense decoder."""

from __future__ import annotations

from genai.build.architectures.config import ConfigReader
from genai.build.architectures.latent import latent_attention
from genai.build.source import JSON
from genai.build.spec import DecoderSpec

_DEFAULTS: dict[str, JSON] = {
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "rope_interleave": True,
    "tie_word_embeddings": True,
}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Llama's layers otherwise."""
    config = config.with_defaults(_DEFAULTS)
    return config.decoder([latent_attention(config)] * config.num_layers)
