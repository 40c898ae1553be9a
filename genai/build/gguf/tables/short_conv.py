"""LFM2, with experts and without: the final norm is called the embedding's."""

from __future__ import annotations

from genai.build.gguf.metadata import ArchitectureMetadata
from genai.build.gguf.tables.table import (
    HEAD_NORMS,
    PLAIN,
    ROUTER,
    SIGMOID,
    TOP,
    Architecture,
    expert_sizes,
    windowless,
)
from genai.build.source import JSON

_CONV = {
    "shortconv.in_proj": "conv.in_proj",
    "shortconv.conv": "conv.conv",
    "shortconv.out_proj": "conv.out_proj",
}
_TOP = TOP | {"token_embd_norm": "model.norm"}
_BY_LAYER = frozenset({"attention.head_count_kv"})


def _lfm2(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    return windowless(metadata) | {
        "block_auto_adjust_ff_dim": False,  # done by the converter
        "conv_L_cache": metadata.size("shortconv.l_cache"),
        "conv_bias": False,  # one that is there is used
        "layer_types": metadata.kinds_of_layers("shortconv.conv.weight", "conv", "full_attention"),
    }


def _lfm2moe(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    dense = metadata.optional_size("leading_dense_block_count") or 0
    return _lfm2(metadata) | expert_sizes(metadata, gating=SIGMOID) | {
        "num_dense_layers": dense,
        "use_expert_bias": metadata.has_tensor(f"blk.{dense}.exp_probs_b.bias"),
        "norm_topk_prob": True,
        "routed_scaling_factor": 1.0,
    }  # fmt: skip


ARCHITECTURES = {
    "lfm2": Architecture(
        model_type="lfm2", layer=PLAIN | HEAD_NORMS | _CONV, top=_TOP, extras=_lfm2, by_layer=_BY_LAYER
    ),
    "lfm2moe": Architecture(
        model_type="lfm2_moe",
        layer=PLAIN | HEAD_NORMS | ROUTER | _CONV,
        top=_TOP,
        extras=_lfm2moe,
        by_layer=_BY_LAYER,
        reads=frozenset({"expert_count"}),
        has_experts=True,
    ),
}
