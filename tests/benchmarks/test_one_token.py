"""The two forms of attention that are compared: the copy has no choice any more, and computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from benchmarks.one_token import without_choice
from genai.config import EngineConfig
from genai.llm.llm import LLM
from tests.tiny_package import tiny_package


def test_the_copy_takes_the_other_branch(tmp_path: Path) -> None:
    built = tiny_package(tmp_path / "built")
    other = without_choice(built, tmp_path / "other")
    kinds = [node.op_type for node in onnx.load(other / "model.onnx", load_external_data=False).graph.node]
    assert ("If" in kinds, kinds.count("Attention")) == (False, 2)
    found = []
    for package in (built, other):
        with LLM(package, EngineConfig(device="cpu", num_threads=1, max_seq_len=64)) as llm:
            found.append((llm.same_bits.summary, llm.logits([3, 5, 7, 9])))
    assert [told for told, _ in found] == ["kept", "not kept"]
    np.testing.assert_array_equal(found[0][1], found[1][1])
