"""What a decode step costs: how it is measured, and when it is measured again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from genai.runtime import step_cost
from genai.runtime.capacity import DEFAULT_COST, StepCost
from genai.runtime.kept_answers import Answers, KeptAnswer
from genai.runtime.layout import Group
from genai.runtime.runner import Runner
from genai.runtime.step_cost import StepSeconds
from tests.random_model import build_random_model
from tests.runtime.test_runner import runner_for, session_of

DAY = 24 * 60 * 60


def measured(runner: Runner) -> StepCost:
    return step_cost.step_cost(runner, KeptAnswer(None))


@pytest.fixture(scope="module")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Runner:
    return runner_for(session_of(build_random_model(tmp_path_factory.mktemp("model"))))


def costs(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, kept: KeptAnswer, seconds: StepSeconds, days: float
) -> tuple[StepCost, bool]:
    """What a step costs so many days from now on a machine that takes so long; and whether it was asked."""
    asked: list[int] = []

    def measure(runner: Runner, long: int) -> StepSeconds:
        asked.append(long)
        return seconds

    now = time.time() + days * DAY
    with monkeypatch.context() as patch:
        patch.setattr(step_cost, "measured_seconds", measure)
        patch.setattr(time, "time", lambda: now)
        cost = step_cost.step_cost(runner, kept)
    return cost, bool(asked)


QUIET = StepSeconds(two=0.010, many=0.014, long=0.030)
NOW = {"measured_at": time.time(), "begun_at": time.time()}
BUSY = StepSeconds(two=0.030, many=0.031, long=0.029)


def test_the_first_load_of_a_day_measures_and_the_smaller_seconds_count(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Answers({"of": "this test"}).to("step cost", [1])
    long = step_cost.long_slots(runner)
    assert costs(runner, monkeypatch, kept, BUSY, 0) == (BUSY.cost(long), True)
    assert costs(runner, monkeypatch, kept, QUIET, 0.9) == (BUSY.cost(long), False)
    assert costs(runner, monkeypatch, kept, QUIET, 1.1) == (
        StepSeconds(two=0.01, many=0.014, long=0.029).cost(long),
        True,
    )
    assert costs(runner, monkeypatch, kept, BUSY, 2.2) == (
        StepSeconds(two=0.01, many=0.014, long=0.029).cost(long),
        True,
    )
    assert costs(runner, monkeypatch, kept, BUSY, 40) == (BUSY.cost(long), True), "another machine by now"
    assert costs(runner, monkeypatch, kept, QUIET, 39) == (QUIET.cost(long), True), "from the future"


def test_a_machine_that_has_become_slower_is_seen_within_a_month(
    runner: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = Answers({"of": "this test"}).to("step cost", [1])
    long = step_cost.long_slots(runner)
    assert costs(runner, monkeypatch, kept, QUIET, 0) == (QUIET.cost(long), True)
    slow = StepSeconds(two=0.1, many=0.14, long=0.3)
    seen = [costs(runner, monkeypatch, kept, slow, day)[0] == slow.cost(long) for day in range(2, 60, 2)]
    assert seen == [day >= 30 for day in range(2, 60, 2)]


@pytest.mark.parametrize(
    "damage", [3, {"seconds": [1.0, 1.0, 1.0]}, NOW | {"seconds": [1.0, float("nan"), 1.0]},
               NOW | {"seconds": [1.0, 0.0, 1.0]}, NOW | {"seconds": [1.0]}]
)  # fmt: skip
def test_what_is_not_as_it_was_written_is_measured_anew(
    runner: Runner, monkeypatch: pytest.MonkeyPatch, damage: object
) -> None:
    kept = Answers({"of": "this test"}).to("step cost", [1])
    kept.keep(damage)  # type: ignore[arg-type]
    long = step_cost.long_slots(runner)
    assert costs(runner, monkeypatch, kept, QUIET, 0.1) == (QUIET.cost(long), True)
    assert costs(runner, monkeypatch, kept, BUSY, 0.1) == (QUIET.cost(long), False)


def test_a_small_arena_is_not_measured(tmp_path: Path) -> None:
    assert measured(runner_for(session_of(build_random_model(tmp_path)), num_slots=500)) == DEFAULT_COST


@pytest.mark.parametrize(("bound", "num_runs"), [(0.0, 2), (1e9, 4)])
def test_long_steps_are_measured_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: float, num_runs: int
) -> None:
    monkeypatch.setattr(step_cost, "_ENOUGH_SECONDS", bound)
    runner = runner_for(session_of(build_random_model(tmp_path)))
    runs, advance = [], runner.advance

    def counted(group: Group, tokens: Sequence[Sequence[int]]) -> np.ndarray:
        runs.append(len(tokens))
        return advance(group, tokens)

    monkeypatch.setattr(runner, "advance", counted)
    assert measured(runner).weights > 0
    assert runs == [2] * num_runs + [4] * num_runs + [2] * num_runs
    assert runner.cache.rows == ()


def test_what_a_slot_costs_is_measured_over_memory_that_was_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runner = runner_for(session_of(build_random_model(tmp_path)))
    buffer = runner.cache._buffers[0]
    slot_bytes = runner.cache.shape.caches[0].width * 4
    buffer.write(0, np.full(runner.cache.num_slots * slot_bytes, 1, np.uint8))
    untouched, advance = [], runner.advance

    def looked(group: Group, tokens: Sequence[Sequence[int]]) -> np.ndarray:
        slots = buffer.read(0, len(tokens) * group.capacity * slot_bytes).reshape(-1, slot_bytes)
        untouched.append(int((slots == 1).all(axis=1).sum()))
        return advance(group, tokens)

    monkeypatch.setattr(runner, "advance", looked)
    measured(runner)
    assert set(untouched) == {0}


def test_what_a_row_costs_is_told_though_one_alone_is_run_as_two(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = StepCost(weights=8e-3, row=3e-3, slot=5e-7)
    monkeypatch.setattr(step_cost, "_decode_seconds", lambda _, num_rows, capacity: true.of(max(num_rows, 2), capacity))
    cost = measured(runner_for(session_of(build_random_model(tmp_path))))
    assert (cost.weights, cost.row, cost.slot) == pytest.approx((true.weights, true.row, true.slot))
