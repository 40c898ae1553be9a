"""What a test of a family is made from: one tiny configuration as data, and how its GGUF file is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tests.families.gguf_writer import GgufForm


@dataclass(frozen=True, kw_only=True)
class Tower:
    """A model of several parts. text: the text decoder's model type; outer: options of the configuration around it."""

    text: str
    outer: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A tiny random checkpoint of one family.

    model_type: transformers'; options: of its configuration, on top of `tests.build.tiny.SIZES`; changes: keys of
    `config.json` to set afterwards, or to remove where they are `...`; gguf: how llama.cpp's converter would write it,
    None where it writes no such file; tower: the parts beside the text decoder, which `options` are then about;
    lengths: of the prompts; max_seq_len: the context to build for; real: the test that compares a real file of this
    family, from the root.

    The first case of a model type is also the one that every feature of the engine is tried on.
    """

    model_type: str
    options: Mapping[str, Any] = field(default_factory=dict)
    changes: Mapping[str, Any] = field(default_factory=dict)
    gguf: GgufForm | None = None
    tower: Tower | None = None
    lengths: tuple[int, ...] = (40, 9, 23)
    max_seq_len: int | None = None
    real: str | None = None


def rope(kind: str = "default", theta: float = 1000.0, **options: Any) -> dict[str, Any]:
    """The option `rope_parameters`, as transformers 5 has it."""
    return {"rope_parameters": {"rope_type": kind, "rope_theta": theta, **options}}


def legacy(theta: float = 1000.0, **scaling: Any) -> dict[str, Any]:
    """The keys that transformers wrote before version 5, as changes."""
    return {"rope_parameters": ..., "rope_theta": theta, "rope_scaling": scaling or None}


LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
YARN = {"factor": 4.0, "original_max_position_embeddings": 32}
