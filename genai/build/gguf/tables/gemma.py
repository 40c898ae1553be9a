"""Gemma: norms before, and from 2 on behind, both parts of a layer; older ones store 1 added to their weights."""

from __future__ import annotations

from genai.build.gguf.metadata import ArchitectureMetadata
from genai.build.gguf.tables.table import (
    ATTENTION,
    HEAD_NORMS,
    MLP,
    PLAIN,
    POST_NORMS,
    PRE_NORMS,
    TOP,
    Architecture,
    windowless,
)
from genai.build.source import JSON
from genai.errors import UnsupportedModelError


def _gemma(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    return windowless(metadata) | {"hidden_act": "gelu_pytorch_tanh"}


def _gemma2(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    # Nothing in a file says by what the 27B scales queries: as in Gemma 3 it is known by its depth.
    scalar = metadata.hidden_size // metadata.num_heads if metadata.num_layers == 46 else metadata.head_dim
    config: dict[str, JSON] = {
        "hidden_act": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": scalar,
        "final_logit_softcapping": metadata.number("final_logit_softcapping", 30.0),
        "attn_logit_softcapping": metadata.number("attn_logit_softcapping", 50.0),
    }
    if window := metadata.optional_size("attention.sliding_window"):  # the first files were written without
        config |= {"sliding_window": window, "layer_types": metadata.layer_types(default_period=2)}
    return config


def _gemma3(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    # The 27B model, known by its depth, is the one that scales queries by something else than the head size.
    scalar = metadata.hidden_size // metadata.num_heads if metadata.num_layers == 62 else metadata.head_dim
    return {
        "hidden_act": "gelu_pytorch_tanh",
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": scalar,
        "sliding_window": metadata.optional_size("attention.sliding_window"),
        "layer_types": metadata.layer_types(default_period=6),
        "rope_local_base_freq": metadata.number("rope.freq_base_swa", 10000.0),
        "final_logit_softcapping": metadata.optional_number("final_logit_softcapping"),
        "attn_logit_softcapping": metadata.optional_number("attn_logit_softcapping"),
    }


def _gemma4(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    types = metadata.layer_types(default_period=6)
    num_shared = metadata.optional_size("attention.shared_kv_layers") or 0
    head_dim, head_dim_swa = metadata.head_dim, metadata.size("attention.key_length_swa", metadata.head_dim)
    for key in ("attention.value_length_swa", "rope.dimension_count_swa"):
        if (size := metadata.size(key, head_dim_swa)) != head_dim_swa:
            raise UnsupportedModelError(f"{metadata.path}: {metadata.arch}.{key}={size} in heads of {head_dim_swa}")
    heads = metadata.sizes("attention.head_count_kv", metadata.num_heads)
    own_full = [layer for layer in range(len(types) - num_shared) if types[layer] == "full_attention"]
    return _widths(metadata, num_shared) | {
        "hidden_act": "gelu_pytorch_tanh",
        "sliding_window": metadata.size("attention.sliding_window"),
        "layer_types": types,
        "num_kv_shared_layers": num_shared,
        "per_layer_config": {
            str(layer): {
                "head_dim": head_dim if kind == "full_attention" else head_dim_swa, "num_key_value_heads": heads[layer]
            }
            for layer, kind in enumerate(types)
        },
        "attention_k_eq_v": not any(metadata.has_tensor(f"blk.{layer}.attn_v.weight") for layer in own_full),
        "hidden_size_per_layer_input": metadata.optional_size("embedding_length_per_layer_input") or 0,
        "rope_local_base_freq": metadata.number("rope.freq_base_swa", 10000.0),
        "final_logit_softcapping": metadata.optional_number("final_logit_softcapping"),
        "enable_moe_block": metadata.optional_size("expert_count") is not None,
    }  # fmt: skip


def _widths(metadata: ArchitectureMetadata, num_shared: int) -> dict[str, JSON]:
    """The MLP's size: everywhere the same, or twice as much in the layers that read another's keys."""
    sizes = metadata.sizes("feed_forward_length")
    own, shared = sizes[0], sizes[-1]
    if sizes != [own] * (len(sizes) - num_shared) + [shared] * num_shared or shared not in (own, 2 * own):
        raise UnsupportedModelError(f"{metadata.path}: {metadata.arch}.feed_forward_length={sizes[:8]} by layer")
    return {"intermediate_size": own, "use_double_wide_mlp": shared != own}


_LAYER = ATTENTION | MLP | PRE_NORMS | POST_NORMS | {"ffn_norm": "pre_feedforward_layernorm"}
_CAPS = frozenset({"attn_logit_softcapping", "final_logit_softcapping"})
_GEMMA4_EXPERTS = {
    "ffn_gate_inp.weight": "router.proj.weight",
    "ffn_gate_inp.scale": "router.scale",
    "ffn_down_exps.scale": "router.per_expert_scale",
    "pre_ffw_norm_2": "pre_feedforward_layernorm_2",
    "post_ffw_norm_1": "post_feedforward_layernorm_1",
    "post_ffw_norm_2": "post_feedforward_layernorm_2",
}
"""Named so that the model is refused for what it is, and not for a tensor."""

ARCHITECTURES = {
    "gemma": Architecture(model_type="gemma", layer=PLAIN, extras=_gemma, norm_offset=1.0),
    "gemma2": Architecture(model_type="gemma2", layer=_LAYER, extras=_gemma2, norm_offset=1.0, reads=_CAPS),
    "gemma3": Architecture(
        model_type="gemma3_text", layer=_LAYER | HEAD_NORMS, extras=_gemma3, norm_offset=1.0, reads=_CAPS
    ),
    "gemma4": Architecture(
        model_type="gemma4_text",
        top=TOP
        | {
            "per_layer_token_embd": "model.embed_tokens_per_layer",
            "per_layer_model_proj": "model.per_layer_model_projection",
            "per_layer_proj_norm": "model.per_layer_projection_norm",
        },
        layer=_LAYER
        | HEAD_NORMS
        | _GEMMA4_EXPERTS
        | {
            "inp_gate": "per_layer_input_gate",
            "proj": "per_layer_projection",
            "post_norm": "post_per_layer_input_norm",
            "layer_output_scale.weight": "layer_scalar",
        },
        extras=_gemma4,
        reads=frozenset({"final_logit_softcapping", "expert_count"}),
        by_layer=frozenset({"attention.head_count_kv", "feed_forward_length"}),
        has_experts=True,
    ),
}
