"""What DeepSeek's families have in common: latent attention, dense first layers, experts beside one for all tokens."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection

from genai.build.architectures.config import ConfigReader
from genai.build.architectures.experts import experts, feed_forwards, shared
from genai.build.spec import DecoderSpec, LatentSpec, RouterSpec
from genai.errors import UnsupportedModelError


def latent_decoder(config: ConfigReader, router: RouterSpec, layers: Collection[int]) -> DecoderSpec:
    """Latent attention, and experts in these layers. Raises: UnsupportedModelError, WeightsError."""
    moe = experts(config, router)
    num_shared = config.count("n_shared_experts")
    everyones = shared(config, moe.size * num_shared, "mlp.shared_experts") if num_shared else None
    mlps = feed_forwards(config, (moe, everyones) if everyones else moe, layers)
    return config.decoder([latent_attention(config)] * config.num_layers, mlps)


def latent_attention(config: ConfigReader) -> LatentSpec:
    """The usual keys. Raises: UnsupportedModelError, WeightsError."""
    size = config.size("qk_rope_head_dim")
    rotary = config.replaced({"head_dim": size}).rotary()
    if rotary.size != size:
        raise UnsupportedModelError(f"latent attention with {rotary.size} of {size} elements rotated is not supported")
    plain = config.size("qk_nope_head_dim")
    query_rank = config.optional_size("q_lora_rank")
    biased = {"kv_a_proj_with_mqa", "o_proj"} | ({"q_a_proj"} if query_rank else set())
    return LatentSpec(
        num_heads=config.size("num_attention_heads"),
        latent_size=config.size("kv_lora_rank"),
        plain_size=plain,
        value_size=config.size("v_head_dim"),
        rotary=dataclasses.replace(rotary, is_interleaved=config.flag("rope_interleave")),
        scale=(plain + size) ** -0.5 * _magnitude(config) ** 2,
        query_rank=query_rank,
        biases=frozenset(biased if config.flag("attention_bias") else ()),
    )


def _magnitude(config: ConfigReader) -> float:
    """What yarn multiplies queries and keys by, each: by its `mscale_all_dim`, which is only used here."""
    for key in ("rope_scaling", "rope_parameters"):
        scaling = config.inner(key)
        if scaling.has("factor") and scaling.has("mscale_all_dim"):
            factor = scaling.positive("factor", 1.0)
            return 1.0 if factor <= 1 else 0.1 * scaling.number("mscale_all_dim", 0.0) * math.log(factor) + 1.0
    return 1.0
