"""OLMo 2 and 3, which share a name: a file with a window is OLMo 3."""

from __future__ import annotations

from genai.build.gguf.metadata import ArchitectureMetadata
from genai.build.gguf.tables.table import ATTENTION, HEAD_NORMS, MLP, POST_NORMS, Architecture
from genai.build.source import JSON


def _olmo2(metadata: ArchitectureMetadata) -> dict[str, JSON]:
    if not (window := metadata.optional_size("attention.sliding_window")):
        return {}
    return {
        "model_type": "olmo3",
        "sliding_window": window,
        "layer_types": metadata.layer_types(default_period=4),
        "window_rope_theta": metadata.number("rope.freq_base_swa", metadata.number("rope.freq_base", 10000.0)),
    }


ARCHITECTURES = {
    "olmo2": Architecture(model_type="olmo2", layer=ATTENTION | MLP | HEAD_NORMS | POST_NORMS, extras=_olmo2),
}
