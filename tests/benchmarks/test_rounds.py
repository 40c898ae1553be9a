"""Rounds over processes, and which of them count."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from benchmarks import rounds
from benchmarks.rounds import Action, others_share, quiet_rounds


class Recorder:
    """Counts its runs, over all names."""

    def __init__(self) -> None:
        self.order: list[str] = []

    def actions(self, *names: str) -> dict[str, Action[int]]:
        return {name: Action(run=lambda name=name: self.run(name), process_id=os.getpid()) for name in names}

    def run(self, name: str) -> int:
        self.order.append(name)
        return len(self.order)


def disturbed(monkeypatch: pytest.MonkeyPatch, *shares: float) -> None:
    """What others take from now on, action by action."""
    given: Iterator[float] = iter(shares)
    monkeypatch.setattr(rounds, "others_share", lambda busy, own, elapsed: next(given))


def test_all_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    disturbed(monkeypatch, *[0.0] * 9)
    recorder = Recorder()
    found = quiet_rounds(recorder.actions("a", "b", "c"), 3, patience=5)
    assert recorder.order == ["a", "b", "c"] * 3
    assert found.results == {"a": [1, 4, 7], "b": [2, 5, 8], "c": [3, 6, 9]}
    assert found.disturbance == 0


def test_noisy_rounds_are_measured_again(monkeypatch: pytest.MonkeyPatch) -> None:
    disturbed(monkeypatch, 0.0, 0.6, 0.02, 0.03, 0.01, 0.0)
    found = quiet_rounds(Recorder().actions("a", "b"), 2, patience=3)
    assert found.results == {"a": [3, 5], "b": [4, 6]}, "the first round is left out: it was noisy for b"
    assert found.disturbance == 0.03


def test_patience_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    disturbed(monkeypatch, 0.5, 0.3, 0.9, 0.4)
    found = quiet_rounds(Recorder().actions("a"), 2, patience=2)
    assert found.results == {"a": [2, 4]}, "the quietest rounds, in their order"
    assert found.disturbance == 0.4


@pytest.mark.parametrize(("busy", "own", "share"), [(4.0, 4.0, 0.0), (0.9, 1.0, 0.0), (1e9, 0.0, 1.0)])
def test_others_take_between_nothing_and_all(busy: float, own: float, share: float) -> None:
    assert others_share(busy, own, elapsed=2.0) == share


def test_real_processes_are_watched() -> None:
    found = quiet_rounds({"sum": Action(run=lambda: sum(range(1000)), process_id=os.getpid())}, 2)
    assert found.results == {"sum": [499500, 499500]}
    assert 0 <= found.disturbance <= 1
