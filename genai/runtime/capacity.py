"""What room rows get, which run together, and who still finds room: the decisions, without their effects.

A step runs the graph once for each group, and attention on CPU costs rows × capacity whatever is valid. One long row
among short ones would make all pay for its capacity; a group of its own costs one more pass over the weights:

    cost of a group = weights + rows × row + rows × capacity × slot
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from genai.runtime.layout import Group


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCost:
    """Seconds of a decode step: per pass over the weights, per row, and per slot of each row's capacity."""

    weights: float
    row: float
    slot: float

    def of(self, num_rows: int, capacity: int) -> float:
        """Seconds of one group's run."""
        return self.weights + num_rows * (self.row + capacity * self.slot)

    def of_groups(self, groups: Sequence[Group]) -> float:
        """Seconds of a step over all groups."""
        return sum(self.of(len(group.rows), group.capacity) for group in groups)


DEFAULT_COST = StepCost(weights=8e-3, row=4e-3, slot=5e-6)
"""SmolLM2-135M in 8 bits on two AVX2 cores; used until the machine's own is measured."""

_WORTHWHILE = 0.9
"""Rows move between groups only if that makes a step at least this much cheaper: moving copies."""
_CLEARLY_MORE = 1.25
"""A row gives way only if the others get at least this much more done without it: it is prefilled again."""
_HARDLY_MORE = 1.1
"""A row comes to others only if a step of all takes at most this many times what it would with any memory."""
_FINEST_STEP = 16
"""Capacities are multiples of it."""
_ANY_NUMBER = 2**48
"""More slots than any arena has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityPolicy:
    """Decides by lengths alone; the cache lays its rows out so, and the engine asks before it gives them.

    cost: what decides which rows share a group; headroom: tokens that every row must have room to grow by when one more
    comes, or some would soon be preempted again; spare: slots of each row behind its tokens, for padding; least: slots
    of each row, so that tokens have the same bits in every view (`least_slots`). Another policy overrides what it
    decides otherwise: any groups that hold every row's need within the arena give the same texts.
    """

    cost: StepCost = DEFAULT_COST
    headroom: int = 64
    spare: int = 0
    least: int = 1

    def capacity(self, num_tokens: int) -> int:
        """The capacity of a row that needs this many tokens: in steps of 16, then at most an eighth more than needed.

        Attention on CPU takes time for every slot, valid or not (SmolLM2: 0.25 µs a layer); growing costs a rebinding
        and, in a group of several rows, a copy.
        """
        return self.rounded(self._needed(num_tokens))

    def rounded(self, num_slots: int) -> int:
        """The capacity of a row that needs this many slots, spare ones included."""
        step = max(_FINEST_STEP, (1 << max(num_slots - 1, 1).bit_length()) >> 4)
        return -(-num_slots // step) * step

    def groups(self, needs: Mapping[int, int], current: Sequence[Group], num_slots: int) -> list[Group] | None:
        """Groups that hold every row's needed tokens within `num_slots`, cheap to run; None if nothing fits.

        Groups that still hold their rows stay as they are unless others are clearly cheaper. Where memory is short,
        capacities are rounded up less, at last not at all.
        """
        if not needs:
            return []
        needs = {row: self._needed(need) for row, need in needs.items()}
        kept = _kept(needs, current)
        if kept is not None and _size(kept) > num_slots:
            kept = None
        best = self._cheapest(needs, num_slots, self.rounded) or self._cheapest(needs, num_slots, _finest)
        if best is None:
            return kept or _tight(needs, num_slots)
        if kept is not None and self.cost.of_groups(best) > _WORTHWHILE * self.cost.of_groups(kept):
            return kept
        return best

    def fit_together(self, needs: Sequence[int], num_slots: int) -> bool:
        """Whether rows of these lengths, and no others, find room."""
        return self.groups(dict(enumerate(needs)), (), num_slots) is not None

    def has_room(self, needs: Sequence[int], num_slots: int) -> bool:
        """Whether rows of these lengths, and no others, run together nearly as fast as with any memory."""
        rows = dict(enumerate(needs))
        groups, free = self.groups(rows, (), num_slots), self.groups(rows, (), _ANY_NUMBER)
        if groups is None or free is None:
            return False
        return self.cost.of_groups(groups) <= _HARDLY_MORE * self.cost.of_groups(free)

    def num_worth_running(self, needs: Sequence[int], num_slots: int) -> int:
        """How many of these rows, the first in line first, should run together; 0 if the first alone does not fit.

        Memory that is short is paid for in passes over the weights, which fewer rows would not need: all run unless
        fewer get clearly more done in the same time. Who gives way for that has to be prefilled again.
        """
        most = self._rate(needs, len(needs), num_slots)
        if _CLEARLY_MORE * most >= self._rate(needs, len(needs), _ANY_NUMBER):
            return len(needs)
        best, count = most * _CLEARLY_MORE, len(needs)
        for fewer in _ever_fewer(len(needs)):
            rate = self._rate(needs[:fewer], len(needs), num_slots)
            if rate > best:
                best, count = rate, fewer
            elif rate < best / _CLEARLY_MORE**2 and rate > 0:
                break
        return count if best > 0 else 0

    def _rate(self, needs: Sequence[int], num_all: int, num_slots: int) -> float:
        """What a step of these rows gets done for what it costs: 0 if they do not fit, 1 at best.

        A row's share of the work is what it costs with room enough, a pass over the weights shared by all there are.
        """
        groups = self.groups(dict(enumerate(needs)), (), num_slots)
        if not groups:
            return 0.0
        work = sum(self.cost.of(1, self.capacity(need)) for need in needs)
        return (work - len(needs) * (1 - 1 / num_all) * self.cost.weights) / self.cost.of_groups(groups)

    def runs_apart(self, num_rows: int, drafts: Sequence[int]) -> bool:
        """Whether rows with drafts of these lengths run alone, or their group of so many rows as many positions."""
        together = num_rows * max(drafts, default=0) * self.cost.row
        return sum(self.cost.of(1 + length, 0) for length in drafts) < together

    def shares_run(self, valid: Sequence[int], lengths: Sequence[int], capacity: int) -> bool:
        """Whether neighbours that hold so many tokens bring so many more in one run, all padded to the longest.

        They are seen at their group's capacity then, and alone at one that is no larger than needed.
        """
        apart = [
            self.cost.of(length, self.capacity(held + length)) for held, length in zip(valid, lengths, strict=True)
        ]
        return self.cost.of(len(lengths) * max(lengths), capacity) < sum(apart)

    def _needed(self, num_tokens: int) -> int:
        return max(num_tokens + self.spare, self.least)

    def _cheapest(self, needs: Mapping[int, int], num_slots: int, capacity: Callable[[int], int]) -> list[Group] | None:
        """The cheapest way within `num_slots` to cut the rows, sorted by need, into runs; None if there is none.

        With a given number of groups, a step is cheapest where they take the fewest slots. So the fewest are found for
        one group, two, three … (dynamic programming over the last cut), until one more pass over the weights costs more
        than all the slots that it might spare. Rows of one capacity are never parted.
        """
        by_capacity: dict[int, list[int]] = {}
        for row in sorted(needs, key=lambda row: (needs[row], row)):
            by_capacity.setdefault(capacity(needs[row]), []).append(row)
        capacities, members = np.array([*by_capacity], np.int64), [*by_capacity.values()]
        ends = np.cumsum([0, *map(len, members)])
        sizes = (ends[None, 1:] - ends[:-1, None]) * capacities  # [first, last]: slots of a group of these capacities
        sizes[np.tril_indices(len(members), -1)] = _ANY_NUMBER
        least = int(np.diff(ends) @ capacities)
        best, best_cost = None, math.inf
        slots, cuts = sizes[0], []
        for num_groups in range(1, len(members) + 1):
            fixed = num_groups * self.cost.weights
            if fixed + least * self.cost.slot >= best_cost:
                break
            if num_groups > 1:
                options = sizes[1:] + slots[:-1, None]
                cuts.append(options.argmin(axis=0) + 1)
                slots = options.min(axis=0)
            cost = fixed + int(slots[-1]) * self.cost.slot
            if slots[-1] <= num_slots and cost < best_cost:
                best, best_cost = num_groups, cost
        if best is None:
            return None
        groups, end = [], len(members)
        for cut in [*reversed(cuts[: best - 1]), None]:
            first = 0 if cut is None else int(cut[end - 1])
            rows = tuple(row for part in members[first:end] for row in part)
            groups.append(Group(capacity=int(capacities[end - 1]), rows=rows))
            end = first
        return groups[::-1]


def least_slots(head_dim: int) -> int:
    """Slots that a row needs for keys of this size to give a token the same bits in every view of the row.

    ONNX Runtime's products on CPU add up 128 elements of a head at a time, and where their output, a number for each
    slot, is no wider than 64, 256 or more.
    """
    return 65 if head_dim > 128 else 1


def _finest(num_tokens: int) -> int:
    """A capacity that is rounded up as little as makes sense."""
    return -(-num_tokens // _FINEST_STEP) * _FINEST_STEP


def _tight(needs: Mapping[int, int], num_slots: int) -> list[Group] | None:
    """Each row in a group of its own, with an equal part of what is left; None if they do not fit at all."""
    left = num_slots - sum(needs.values())
    if left < 0:
        return None
    return [Group(capacity=need + left // len(needs), rows=(row,)) for row, need in needs.items()]


def _ever_fewer(count: int) -> Iterator[int]:
    """One less, two less, …, in ever larger steps, and 1."""
    less = 1
    while less < count - 1:
        yield count - less
        less += max(1, less // 2)
    if count > 1:
        yield 1


def _kept(needs: Mapping[int, int], current: Sequence[Group]) -> list[Group] | None:
    """The current groups without rows that are gone, with new ones; None if a row has outgrown its group."""
    groups = []
    known: set[int] = set()
    for group in current:
        rows = _without_holes(group.rows, needs)
        known.update(rows)
        if any(needs[row] > group.capacity for row in rows):
            return None
        if rows:
            groups.append(Group(capacity=group.capacity, rows=tuple(rows)))
    for row in needs.keys() - known:
        hosts = [group for group in groups if group.capacity >= needs[row]]
        if not hosts:
            return None
        host = min(hosts, key=lambda group: group.capacity)
        groups[groups.index(host)] = Group(capacity=host.capacity, rows=(*host.rows, row))
    return groups


def _without_holes(rows: Sequence[int], needs: Mapping[int, int]) -> list[int]:
    """Those that are there: the last one moves into each hole, one copy instead of shifting all that follow."""
    result = list(rows)
    for gone in [row for row in rows if row not in needs]:
        last = result.pop()
        if last != gone:
            result[result.index(gone)] = last
    return result


def _size(groups: Sequence[Group]) -> int:
    return sum(group.num_slots for group in groups)
