"""Tiny checkpoints to export, and ONNX models with past and present caches run step by step."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.build import tiny

Floats = npt.NDArray[np.floating[Any]]
Integers = npt.NDArray[np.int64]

OPTIONS: dict[str, dict[str, Any]] = {
    "llama": {"num_hidden_layers": 2, "tie_word_embeddings": True},
    "qwen2": {"num_hidden_layers": 1},
    "qwen3": {"num_hidden_layers": 2, "head_dim": 8},
    "gemma3_text": {
        "num_hidden_layers": 2,
        "head_dim": 16,
        "sliding_window": 8,
        "layer_types": ["sliding_attention", "full_attention"],
        "query_pre_attn_scalar": 10,
    },
    "phi3": {"num_hidden_layers": 1, "partial_rotary_factor": 0.5},
    "mistral": {"num_hidden_layers": 1, "sliding_window": 8},
    "gpt2": {"num_hidden_layers": 2, "num_key_value_heads": 4},
}
"""What each architecture is exported with: one layer where all are alike, as tracing takes its time."""


def make(model_type: str, folder: Path, **options: Any) -> Path:
    """A Hugging Face folder of a random model."""
    return tiny.save(tiny.make_model(model_type, **(OPTIONS.get(model_type, {}) | options)), folder)


class PastPresent:
    """An exported model in ONNX Runtime, its caches held as NumPy arrays."""

    def __init__(self, folder: Path) -> None:
        self._session = tiny.load_session(folder)
        self._inputs = {value.name: value for value in self._session.get_inputs()}
        self.past: dict[str, Floats] = {}

    def start(self, batch: int) -> None:
        """Forget everything; caches for this many rows."""
        caches = {name: value for name, value in self._inputs.items() if name.startswith("past_key_values.")}
        self.past = {
            name: np.zeros((batch, value.shape[1], 0, value.shape[3]), np.float16 if "16" in value.type else np.float32)
            for name, value in caches.items()
        }

    def add(self, tokens: Integers, mask: Integers, positions: Integers) -> Floats:
        """Logits [B, T, V] after new tokens [B, T]; mask: [B, P + T], 0 for padding."""
        feeds = {"input_ids": tokens, "attention_mask": mask, "position_ids": positions} | self.past
        logits, *present = self._session.run(None, {name: feeds[name] for name in self._inputs})
        self.past = dict(zip(self.past, present, strict=True))
        return np.asarray(logits)

    def in_parts(self, tokens: Integers, lengths: Sequence[int]) -> Floats:
        """Logits [B, T, V] of rows without padding that come in parts."""
        self.start(len(tokens))
        ends = np.cumsum(lengths)
        parts = []
        for start, end in zip(ends - lengths, ends, strict=True):
            positions = np.tile(np.arange(start, end), (len(tokens), 1))
            parts.append(self.add(tokens[:, start:end], np.ones((len(tokens), end), np.int64), positions))
        return np.concatenate(parts, axis=1)
