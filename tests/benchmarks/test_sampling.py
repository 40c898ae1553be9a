"""The cost of sampling, measured on a tiny model: every way runs, and the tables have a line for each."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import sampling
from benchmarks.rounds import Rounds
from benchmarks.sampling import WAYS, Times, as_json, as_markdown, measured
from benchmarks.texts import english_tokens
from genai.config import EngineConfig, ModelConfig
from genai.runtime.load import load_runner
from tests.tiny_package import tiny_package


def test_every_way_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "STEPS_A_ROUND", 2)
    package = tiny_package(tmp_path)
    config = EngineConfig(max_seq_len=300, max_batch=2, num_threads=1)
    runner = load_runner(package, ModelConfig.read(package), config).runner
    found = measured(runner, english_tokens(package), 2, rounds=1, patience=1)
    assert found.results.keys() == WAYS.keys()
    assert all(each.choosing > 0 and each.step > 0 for times in found.results.values() for each in times)
    assert not runner.cache.rows


def test_shares_are_of_the_rounds_own_steps() -> None:
    times = [Times(step=0.01, choosing=0.001), Times(step=0.02, choosing=0.001), Times(step=0.02, choosing=0.004)]
    found = {8: Rounds(results=dict.fromkeys(WAYS, times), disturbance=0.3)}
    text = as_markdown("a model", found)
    assert text.startswith("## a model (others took up to 30% of the processors)")
    assert "| everything on | 1.00 | 10.0% |" in text
    assert "| decode step | 20.0 |" in text
    data = as_json(found)["8"]
    assert isinstance(data, dict)
    assert data["step_seconds"] == 0.02
