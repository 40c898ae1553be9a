"""Qwen 2 and 3, and the text decoders of their vision models: for text their rotary sections are one."""

from __future__ import annotations

from genai.build.gguf.tables.table import HEAD_NORMS, PLAIN, Architecture

_SECTIONS = frozenset({"rope.dimension_sections"})

ARCHITECTURES = {
    "qwen2": Architecture(model_type="qwen2", layer=PLAIN),
    "qwen2vl": Architecture(model_type="qwen2_vl_text", layer=PLAIN, reads=_SECTIONS),
    "qwen3": Architecture(model_type="qwen3", layer=PLAIN | HEAD_NORMS),
    "qwen3vl": Architecture(model_type="qwen3_vl_text", layer=PLAIN | HEAD_NORMS, reads=_SECTIONS),
}
