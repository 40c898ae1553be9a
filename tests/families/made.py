"""What tests make of the cases, each once in a session: checkpoints, transformers' logits, GGUF files, packages."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.numpy import load_file

from genai.build.package import build_package
from tests.build import tiny
from tests.families import gguf_writer
from tests.families.case import Case

Source = Literal["safetensors", "gguf"]


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A case as transformers has saved it, the prompts, and the logits that follow each of their tokens, [T, V]."""

    folder: Path
    prompts: list[list[int]]
    logits: list[np.ndarray]


class Made:
    """Everything that was made of the cases so far, in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._checkpoints: dict[int, Checkpoint] = {}
        self._packages: dict[tuple[int, Source], Path] = {}

    def checkpoint(self, case: Case) -> Checkpoint:
        """A case's checkpoint and what transformers makes of it."""
        if id(case) not in self._checkpoints:
            self._checkpoints[id(case)] = _saved(case, self._folder / f"checkpoint-{len(self._checkpoints)}")
        return self._checkpoints[id(case)]

    def package(self, case: Case, source: Source) -> Path:
        """A case's package in f32."""
        if (id(case), source) not in self._packages:
            folder = self.checkpoint(case).folder
            path = write_gguf(case, folder, folder / "model.gguf") if source == "gguf" else folder
            package = self._folder / f"package-{len(self._packages)}"
            build_package(path, package, precision="f32", max_seq_len=case.max_seq_len)
            self._packages[id(case), source] = package
        return self._packages[id(case), source]


def save(case: Case, folder: Path) -> Any:
    """Save a case's checkpoint, and give transformers' model of it."""
    if case.tower is None:
        model = tiny.make_model(case.model_type, **case.options)
    else:
        model = tiny.make_tower(case.model_type, case.tower.outer, **case.options, model_type=case.tower.text)
    tiny.save(model, folder, **case.changes)
    return tiny.load(folder) if case.changes else model


def _saved(case: Case, folder: Path) -> Checkpoint:
    model = save(case, folder)
    prompts = [tiny.tokens(length, seed) for seed, length in enumerate(case.lengths)]
    return Checkpoint(folder=folder, prompts=prompts, logits=[tiny.expected(model, prompt) for prompt in prompts])


def write_gguf(case: Case, folder: Path, path: Path, change: Callable[[Any], None] = lambda _: None) -> Path:
    """A case's checkpoint as llama.cpp's converter would write it; change: as in `gguf_writer.write`."""
    import transformers

    assert case.gguf is not None
    config = transformers.AutoConfig.from_pretrained(folder).get_text_config()
    config.allow_global_per_layer_attribute_access = True  # of what differs from layer to layer, the usual value

    def with_vocabulary(writer: Any) -> None:
        gguf_writer.write_vocabulary(writer, config.vocab_size)
        change(writer)

    return gguf_writer.write(case.gguf, load_file(folder / "model.safetensors"), config, path, with_vocabulary)
