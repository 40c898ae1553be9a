"""What a decode step costs on this machine: measured when a package is loaded, and kept for a day.

A machine may be busy when it is asked. So what is older than a day is measured again, and of each shape of run the
smaller time counts: other programs only make runs longer. After a month it begins anew, for machines change. What texts
are does not depend on it.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass, replace

from genai.runtime.capacity import StepCost
from genai.runtime.kept_answers import JSON, KeptAnswer
from genai.runtime.runner import Runner

_log = logging.getLogger(__name__)

_FEWEST_RUNS, _MOST_RUNS = 2, 4
_ENOUGH_SECONDS = 0.1
"""A shape of run is measured twice, and twice more if that has taken less: long runs vary less."""
_SHORT, _LONG = 64, 1024
_MANY_ROWS = 4
"""Rows that are run to tell what one costs: no more than have states where two run together."""
_DAY = 24 * 60 * 60
_FRESH_SECONDS, _USEFUL_SECONDS = _DAY, 30 * _DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSeconds:
    """Seconds of three shapes of run: two rows of a short capacity, many such rows, and two of a long one."""

    two: float
    many: float
    long: float

    def cost(self, long: int) -> StepCost:
        """What they say of any step. long: slots of the long rows."""
        slot = max(self.long - self.two, 0.0) / (2 * (long - _SHORT))
        row = max((self.many - self.two) / (_MANY_ROWS - 2) - _SHORT * slot, 0.0)
        return StepCost(weights=max(self.two - 2 * (row + _SHORT * slot), 1e-5), row=row, slot=max(slot, 1e-9))

    def smaller(self, other: StepSeconds) -> StepSeconds:
        """The smaller seconds of each shape."""
        return StepSeconds(
            two=min(self.two, other.two), many=min(self.many, other.many), long=min(self.long, other.long)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Known:
    """What was measured, when last, and since when the smaller seconds count; in seconds since the epoch."""

    measured_at: float
    begun_at: float
    seconds: StepSeconds

    def after(self, other: _Known | None) -> _Known:
        """What counts now, if another was known before."""
        if other is None or not 0 <= self.measured_at - other.begun_at < _USEFUL_SECONDS:
            return self
        return replace(self, begun_at=other.begun_at, seconds=self.seconds.smaller(other.seconds))

    def as_data(self) -> dict[str, JSON]:
        """As `_read` takes it."""
        seconds = [self.seconds.two, self.seconds.many, self.seconds.long]
        return {"measured_at": self.measured_at, "begun_at": self.begun_at, "seconds": [*seconds]}


def long_slots(runner: Runner) -> int:
    """Slots of the rows that are long when a step is measured: fewer in a small arena."""
    return min(_LONG, runner.cache.num_slots // 2 // _SHORT * _SHORT)


def step_cost(runner: Runner, kept: KeptAnswer) -> StepCost:
    """What a decode step costs here: as it was kept, or measured now, and kept.

    Where the arena is too small to tell capacities apart, the default stands.
    """
    long = long_slots(runner)
    if long < 4 * _SHORT:
        return runner.cache.policy.cost
    known, now = _read(kept.value), time.time()
    if known is None or not 0 <= now - known.measured_at < _FRESH_SECONDS:
        known = _Known(measured_at=now, begun_at=now, seconds=measured_seconds(runner, long)).after(known)
        kept.keep(known.as_data())
    cost = known.seconds.cost(long)
    _log.info("a decode step costs %.2g s + %.2g s a row + %.2g s a slot", cost.weights, cost.row, cost.slot)
    return cost


def measured_seconds(runner: Runner, long: int) -> StepSeconds:
    """Three shapes, each the best of a few runs.

    Rows are written to before: memory that never was is one page of zeros, which processors keep at hand. A row alone
    would not tell: where kernels ask for it, it is run as two.
    """
    return StepSeconds(
        two=_decode_seconds(runner, 2, _SHORT),
        many=_decode_seconds(runner, _MANY_ROWS, _SHORT),
        long=_decode_seconds(runner, 2, long),
    )


def _read(kept: JSON) -> _Known | None:
    """What was kept; nothing of what is not as it was written."""
    match kept:
        case {"measured_at": float(last), "begun_at": float(first), "seconds": [float(two), float(many), float(long)]}:
            if all(math.isfinite(number) and number > 0 for number in (last, first, two, many, long)):
                seconds = StepSeconds(two=two, many=many, long=long)
                return _Known(measured_at=last, begun_at=first, seconds=seconds)
    return None


def _decode_seconds(runner: Runner, num_rows: int, capacity: int) -> float:
    cache = runner.cache
    capacity -= cache.reserved_slots + cache.policy.spare
    rows = [cache.allocate(capacity) for _ in range(num_rows)]
    for row in rows:
        cache.clear_behind(row)
    seconds: list[float] = []
    while len(seconds) < (_MOST_RUNS if sum(seconds) < _ENOUGH_SECONDS else _FEWEST_RUNS):
        started = time.perf_counter()
        runner.advance(cache.groups[0], [[0]] * num_rows)
        seconds.append(time.perf_counter() - started)
        for row in rows:
            cache.truncate(row, 0)
            cache.reserve({row: capacity})
    for row in rows:
        cache.free(row)
    return min(seconds)
