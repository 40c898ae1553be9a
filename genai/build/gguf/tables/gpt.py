"""GPT's family: q, k and v in one matrix, all of q first; ungated MLPs; learned positions, rotary ones or ALiBi."""

from __future__ import annotations

from genai.build.gguf.metadata import ArchitectureMetadata
from genai.build.gguf.tables.table import FUSED_ATTENTION, PRE_NORMS, TOP, UNGATED_MLP, Architecture, windowless
from genai.build.source import JSON

_LAYER = FUSED_ATTENTION | UNGATED_MLP | PRE_NORMS
_WITH_POSITIONS = TOP | {"position_embd": "model.embed_positions"}


def _gpt2(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    return windowless(metadata) | {"hidden_act": "gelu_new"}


def _starcoder(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    is_shared = metadata.size("attention.head_count_kv", metadata.num_heads) == 1
    return windowless(metadata) | {"hidden_act": "gelu_pytorch_tanh", "multi_query": is_shared}


def _gptneox(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    is_parallel = metadata.flag("use_parallel_residual")
    return windowless(metadata) | metadata.rotated_share() | {
        "attention_bias": metadata.has_tensor("blk.0.attn_qkv.bias"),
        "hidden_act": "gelu",
        "use_parallel_residual": is_parallel is None or is_parallel,
    }  # fmt: skip


def _falcon(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    # The 7B model is one group of all queries: the 40B's architecture with one norm.
    return windowless(metadata) | {
        "bias": metadata.has_tensor("blk.0.attn_qkv.bias"),
        "hidden_act": "gelu",
        "new_decoder_architecture": True,
        "num_kv_heads": metadata.size("attention.head_count_kv", 1),
        "num_ln_in_parallel_attn": 1 + metadata.has_tensor("blk.0.attn_norm_2.weight"),
    }


def _bloom(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    return windowless(metadata) | {"seq_length": metadata.size("context_length")}


def _mpt(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    return windowless(metadata) | {
        "attn_config": {
            "alibi": metadata.number("attention.max_alibi_bias", 0.0) > 0,
            "alibi_bias_max": metadata.optional_number("attention.max_alibi_bias"),
            "clip_qkv": metadata.optional_number("attention.clamp_kqv"),
        }
    }


ARCHITECTURES = {
    "bloom": Architecture(
        model_type="bloom",
        layer=_LAYER,
        top=TOP | {"token_embd_norm": "model.embedding_norm"},
        extras=_bloom,
        norm="layer",
    ),
    "mpt": Architecture(
        model_type="mpt",
        layer=_LAYER,
        extras=_mpt,
        norm="layer",
        reads=frozenset({"attention.clamp_kqv", "attention.max_alibi_bias"}),
    ),
    "gpt2": Architecture(model_type="gpt2", layer=_LAYER, top=_WITH_POSITIONS, extras=_gpt2, norm="layer"),
    "starcoder": Architecture(
        model_type="gpt_bigcode", layer=_LAYER, top=_WITH_POSITIONS, extras=_starcoder, norm="layer"
    ),
    "gptneox": Architecture(model_type="gpt_neox", layer=_LAYER, extras=_gptneox, norm="layer"),
    "falcon": Architecture(
        model_type="falcon",
        layer=FUSED_ATTENTION | UNGATED_MLP | {"attn_norm": "input_layernorm", "attn_norm_2": "attention_layernorm"},
        extras=_falcon,
        norm="layer",
    ),
}
