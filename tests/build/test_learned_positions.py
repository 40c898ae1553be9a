"""A table of positions: its limit is the model's, and a row's padding may lie behind it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from genai.build.package import build_package
from genai.errors import CapacityError
from tests.build import tiny
from tests.families.oracle import close

torch = pytest.importorskip("torch")


@pytest.mark.parametrize("model_type", ["gpt2", "opt"])
def test_a_context_beyond_the_table_is_refused(tmp_path: Path, model_type: str) -> None:
    folder = tiny.save(tiny.make_model(model_type, max_position_embeddings=32), tmp_path / "checkpoint")
    with pytest.raises(
        CapacityError, match="the model has 32 learned positions and cannot go beyond them; give at most 32"
    ):
        build_package(folder, tmp_path / "package", max_seq_len=33)
    assert build_package(folder, tmp_path / "package", max_seq_len=32).is_dir()


@pytest.mark.parametrize("model_type", ["gpt2", "opt"])
def test_padding_may_lie_behind_the_last_position(tmp_path: Path, model_type: str) -> None:
    model = tiny.make_model(model_type, max_position_embeddings=32)
    batch = tiny.Graph(tiny.build(model, tmp_path), 2)
    full, short = tiny.tokens(32), tiny.tokens(12, seed=1)
    first = batch.add(full[:30], short[:4])
    second = batch.add(full[30:], short[4:])  # the first row's padding: positions 32 to 37
    close(
        [np.concatenate(parts) for parts in zip(first, second, strict=True)],
        [tiny.expected(model, text) for text in (full, short)],
    )
