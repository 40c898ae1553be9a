"""Gemma 2 and 3: norms around both parts of a layer, their weights stored with 1 already added."""

from __future__ import annotations

from genai.build.gguf.metadata import ArchitectureMetadata
from genai.build.gguf.tables.table import ATTENTION, HEAD_NORMS, MLP, POST_NORMS, PRE_NORMS, Architecture
from genai.build.source import JSON


def _gemma2(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    # Nothing in a file says by what the 27B scales queries: as in Gemma 3 it is known by its depth.
    scalar = metadata.hidden_size // metadata.num_heads if metadata.num_layers == 46 else metadata.head_dim
    return {
        "hidden_act": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": scalar,
        "sliding_window": metadata.optional_size("attention.sliding_window"),
        "layer_types": metadata.layer_types(default_period=2),
        "final_logit_softcapping": metadata.number("final_logit_softcapping", 30.0),
        "attn_logit_softcapping": metadata.number("attn_logit_softcapping", 50.0),
    }


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


_LAYER = ATTENTION | MLP | PRE_NORMS | POST_NORMS | {"ffn_norm": "pre_feedforward_layernorm"}
_CAPS = frozenset({"attn_logit_softcapping", "final_logit_softcapping"})

ARCHITECTURES = {
    "gemma2": Architecture(model_type="gemma2", layer=_LAYER, extras=_gemma2, norm_offset=1.0, reads=_CAPS),
    "gemma3": Architecture(
        model_type="gemma3_text", layer=_LAYER | HEAD_NORMS, extras=_gemma3, norm_offset=1.0, reads=_CAPS
    ),
}
