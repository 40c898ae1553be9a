"""DeepSeek V2: latent attention, dense first layers, then experts chosen by softmax, maybe from the best groups."""

from __future__ import annotations

from genai.build.architectures.config import ConfigReader
from genai.build.architectures.latent import latent_decoder
from genai.build.source import JSON
from genai.build.spec import DecoderSpec, RouterSpec
from genai.errors import UnsupportedModelError

_DEFAULTS: dict[str, JSON] = {
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "n_routed_experts": 64,
    "n_shared_experts": 2,
    "moe_intermediate_size": 1407,
    "topk_method": "greedy",
    "scoring_func": "softmax",
}


def decoder_spec(config: ConfigReader) -> DecoderSpec:
    """Experts from `first_k_dense_replace` on. Raises: UnsupportedModelError for another choice of experts."""
    # transformers rotates neighbours here, always.
    config = config.with_defaults(_DEFAULTS).replaced({"rope_interleave": True})
    # What transformers does not read, and the model's own code does.
    config.refuse("norm_topk_prob")
    method, score = config.text("topk_method"), config.text("scoring_func")
    if method not in ("greedy", "group_limited_greedy") or score != "softmax" or config.size("moe_layer_freq", 1) != 1:
        raise UnsupportedModelError(
            f"DeepSeek V2 with topk_method={method!r}, scoring_func={score!r}, "
            f"moe_layer_freq={config.size('moe_layer_freq', 1)}: supported are greedy and group_limited_greedy, "
            "softmax, and experts in every layer behind the first"
        )
    has_groups = method == "group_limited_greedy"
    router = RouterSpec(
        groups=config.size("n_group", 1) if has_groups else 1,
        kept_groups=config.size("topk_group", 1) if has_groups else 1,
        is_normalised=False,
        scale=config.number("routed_scaling_factor", 1.0),
    )
    return latent_decoder(config, router, range(config.count("first_k_dense_replace"), config.num_layers))
