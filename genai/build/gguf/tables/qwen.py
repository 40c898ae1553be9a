"""Qwen 2 and 3."""

from __future__ import annotations

from genai.build.gguf.tables.table import HEAD_NORMS, PLAIN, Architecture

ARCHITECTURES = {
    "qwen2": Architecture(model_type="qwen2", layer=PLAIN),
    "qwen3": Architecture(model_type="qwen3", layer=PLAIN | HEAD_NORMS),
}
