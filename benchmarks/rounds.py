"""A, B, C, A, B, C, …: rounds in which everything is measured once, and the machine watched meanwhile.

What disturbs the machine then disturbs all alike; and the share of the processors that others took (or the host took
away) says which rounds to leave out.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

import psutil

T = TypeVar("T")

QUIET = 0.1
"""A round in which others took more than this share of the processors is measured again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action(Generic[T]):
    """Something to measure, and the process that it keeps busy."""

    run: Callable[[], T]
    process_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rounds(Generic[T]):
    """What each action returned, round by round; disturbance: the others' share in the worst of these rounds."""

    results: dict[str, list[T]]
    disturbance: float


def quiet_rounds(actions: Mapping[str, Action[T]], rounds: int, *, patience: int = 1, pause: float = 0.0) -> Rounds[T]:
    """Run all actions in turn, `rounds` times; noisy rounds again, up to `patience` times as many in all.

    pause: seconds of rest before each action, for the threads of the one before to go to sleep. The quietest rounds are
    returned, in the order in which they were measured.
    """
    measured: list[tuple[float, dict[str, T]]] = []
    while len(measured) < rounds * max(patience, 1):
        if sum(disturbance < QUIET for disturbance, _ in measured) >= rounds:
            break
        measured.append(_round(actions, pause))
    quietest = sorted(range(len(measured)), key=lambda index: (measured[index][0], index))[:rounds]
    kept = [measured[index] for index in sorted(quietest)]
    return Rounds(
        results={name: [results[name] for _, results in kept] for name in actions},
        disturbance=max(disturbance for disturbance, _ in kept),
    )


def others_share(busy_seconds: float, own_seconds: float, elapsed: float) -> float:
    """The share of the processors that went to others, from processor seconds in all and of one's own."""
    return min(1.0, max(0.0, (busy_seconds - own_seconds) / (elapsed * (os.cpu_count() or 1))))


def _round(actions: Mapping[str, Action[T]], pause: float) -> tuple[float, dict[str, T]]:
    """All actions once, and the disturbance of the most disturbed one."""
    disturbances, results = [], {}
    for name, action in actions.items():
        time.sleep(pause)
        process = psutil.Process(action.process_id)
        busy, own, started = _busy_seconds(), _own_seconds(process), time.perf_counter()
        results[name] = action.run()
        elapsed = time.perf_counter() - started
        disturbances.append(others_share(_busy_seconds() - busy, _own_seconds(process) - own, elapsed))
    return max(disturbances), results


def _busy_seconds() -> float:
    """Processor seconds that were not idle, all processors together, time stolen by the host included."""
    times = psutil.cpu_times()
    return float(sum(times) - times.idle - getattr(times, "iowait", 0.0) - getattr(times, "guest", 0.0))


def _own_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
