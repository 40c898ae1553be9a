"""The two ways to keep a window that are compared: the copy keeps whole texts, and computes the same."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest

from benchmarks.windows import with_whole_caches
from genai.config import EngineConfig
from genai.llm.llm import LLM
from tests.random_model import RandomSource
from tests.tiny_package import VOCAB_SIZE, tiny_package


def test_the_copy_keeps_whole_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("genai.build.windows.block_slots", lambda head_dim: 16)
    built = tiny_package(tmp_path / "built", weights_of=partial(RandomSource, sliding_window=16))
    other = with_whole_caches(built, tmp_path / "other")
    tokens = [index * 7 % VOCAB_SIZE for index in range(600)]
    found, kept = [], []
    for package in (built, other):
        with LLM(package, EngineConfig(device="cpu", num_threads=1, max_seq_len=700, prefill_chunk=50)) as llm:
            found.append(llm.logits(tokens))
            kept.append(llm.cache_shape.window_bytes_per_token)
    np.testing.assert_allclose(*found, atol=1e-4)
    assert kept[0] > kept[1] == 0


def test_a_package_without_windows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no layers that keep their windows alone"):
        with_whole_caches(tiny_package(tmp_path / "built"), tmp_path / "other")
