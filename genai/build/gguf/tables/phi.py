"""Phi-3: products of several parts in one."""

from __future__ import annotations

from genai.build.gguf.metadata import ArchitectureMetadata
from genai.build.gguf.tables.table import PRE_NORMS, Architecture
from genai.build.source import JSON


def _phi3(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    return {"sliding_window": metadata.window()}


ARCHITECTURES = {
    "phi3": Architecture(
        model_type="phi3",
        layer=PRE_NORMS
        | {"attn_qkv": "self_attn.qkv_proj", "attn_output": "self_attn.o_proj"}
        | {"ffn_up": "mlp.gate_up_proj", "ffn_down": "mlp.down_proj"},
        extras=_phi3,
    ),
}
