"""The benchmark of what a token costs beside the graph: all tokens are delivered, and its table is of paired rounds."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest

from benchmarks import overhead


def test_delivery_measures_steps_in_which_all_rows_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    runners: list[overhead.ScriptedRunner] = []

    class Seen(overhead.ScriptedRunner):
        def __init__(self, num_rows: int, seconds: float) -> None:
            super().__init__(num_rows, seconds)
            runners.append(self)

    monkeypatch.setattr(overhead, "ScriptedRunner", Seen)
    assert 1 < asyncio.run(overhead._delivered(3, 0.001)) < 100_000
    (runner,) = runners
    assert sum(num for *_, num in runner.runs) >= overhead.NUM_TOKENS * 3
    assert runner.cache.rows == ()


def test_choosing_measures_each_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(overhead, "VOCAB_SIZE", 500)
    found = overhead.choosing(2)
    assert [*found] == [*overhead.WAYS]
    assert np.all(np.array([*found.values()]) > 0)


def test_a_worker_measures_a_checkout_and_says_when_it_fails() -> None:
    with overhead.Worker(Path(__file__).parents[2]) as worker, pytest.raises(RuntimeError, match="has failed"):
        worker.measure("nothing", 1)


def test_ratios_are_of_each_round() -> None:
    rounds = {
        f"{name}delivery {num}": [{"python": value * num} for value in values]
        for name, values in {"before ": (2.0, 8.0, 4.0), "": (1.0, 2.0, 3.0)}.items()
        for num in overhead.ROWS
    }
    assert "| python | 64.0 | x 0.50 | 256.0 | x 0.50 |" in overhead.as_markdown("delivery", rounds)
    alone = {name: found for name, found in rounds.items() if not name.startswith("before")}
    assert "| python | 64.0 | 256.0 |" in overhead.as_markdown("delivery", alone)
