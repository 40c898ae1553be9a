"""The two ways to read a long cache that are compared: the copy reads all of it, and computes the same."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.windows import without_parts
from genai.config import EngineConfig
from genai.llm.llm import LLM
from tests.random_model import RandomSource
from tests.tiny_package import VOCAB_SIZE, tiny_package


def test_the_copy_reads_whole_caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genai.build.parts.reach.block_slots", lambda head_dim: 128)
    built = tiny_package(tmp_path / "built", weights_of=partial(RandomSource, sliding_window=16))
    other = without_parts(built, tmp_path / "other")
    tokens = [index * 7 % VOCAB_SIZE for index in range(600)]
    found = []
    for package in (built, other):
        with LLM(package, EngineConfig(device="cpu", num_threads=1, max_seq_len=700, prefill_chunk=50)) as llm:
            found.append(llm.logits(tokens))
    np.testing.assert_allclose(*found, atol=1e-4)
    assert [num_questions(package) for package in (built, other)] == [1, 0]


def num_questions(package: Path) -> int:
    """How many of the values that choices depend on are compared for."""
    nodes = onnx.load(package / "model.onnx", load_external_data=False).graph.node
    asked = {node.input[0] for node in nodes if node.op_type == "If"}
    return sum(node.op_type == "Less" and node.output[0] in asked for node in nodes)


def test_a_package_without_windows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no layers that read parts"):
        without_parts(tiny_package(tmp_path / "built"), tmp_path / "other")
