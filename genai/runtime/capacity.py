"""What room rows get, which run together, and who still finds room: the decisions, without their effects.

A step runs the graph once for each group, and attention on CPU costs rows × capacity whatever is valid. One long row
among short ones would make all pay for its capacity; a group of its own costs one more pass over the weights:

    cost of a group = weights + rows × row + rows × capacity × slot
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
_FINEST_STEP = 16
"""Capacities are multiples of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CapacityPolicy:
    """Decides by lengths alone; the cache lays its rows out so, and the engine asks before it gives them.

    cost: what decides which rows share a group; headroom: tokens that must be free beyond a newcomer's prompt while
    others run, or it would soon be preempted again. Another policy overrides what it decides otherwise: any groups that
    hold every row's need within the arena give the same texts.
    """

    cost: StepCost = DEFAULT_COST
    headroom: int = 64

    def capacity(self, num_tokens: int) -> int:
        """The capacity of a row that needs this many tokens: in steps of 16, then at most an eighth more than needed.

        Attention on CPU takes time for every slot, valid or not (SmolLM2: 0.25 µs a layer); growing costs a rebinding
        and, in a group of several rows, a copy.
        """
        step = max(_FINEST_STEP, (1 << max(num_tokens - 1, 1).bit_length()) >> 4)
        return -(-num_tokens // step) * step

    def groups(self, needs: Mapping[int, int], current: Sequence[Group], num_slots: int) -> list[Group] | None:
        """Groups that hold every row's needed tokens within `num_slots`, cheap to run; None if nothing fits.

        Groups that still hold their rows stay as they are unless others are clearly cheaper. Tight groups, whose
        capacities are not rounded up, are the last resort.
        """
        kept = _kept(needs, current)
        best = self._cheapest(needs, num_slots)
        is_kept_good = best is None or (
            kept is not None and self.cost.of_groups(best) > _WORTHWHILE * self.cost.of_groups(kept)
        )
        if kept is not None and _size(kept) <= num_slots and is_kept_good:
            return kept
        if best is not None:
            return best
        tight = [Group(capacity=need, rows=(row,)) for row, need in needs.items()]
        return tight if _size(tight) <= num_slots else None

    def fit_together(self, needs: Sequence[int], num_slots: int) -> bool:
        """Whether rows of these lengths, and no others, find room."""
        return self.groups(dict(enumerate(needs)), (), num_slots) is not None

    def runs_apart(self, num_rows: int, drafts: Sequence[int]) -> bool:
        """Whether rows with drafts of these lengths run alone, or their group of so many rows as many positions."""
        together = num_rows * max(drafts, default=0) * self.cost.row
        return sum(self.cost.of(1 + length, 0) for length in drafts) < together

    def _cheapest(self, needs: Mapping[int, int], num_slots: int) -> list[Group] | None:
        """The best way to cut the rows, sorted by need, into runs: dynamic programming over the cuts.

        best[i] is the cheapest grouping of the i smallest rows. If it does not fit the arena, as many groups as there
        are different capacities take the least room; None if even that is too much.
        """
        rows = sorted(needs, key=lambda row: (needs[row], row))
        capacities = [self.capacity(needs[row]) for row in rows]
        best: list[tuple[float, int]] = [(0.0, 0)]
        for end in range(1, len(rows) + 1):
            capacity = capacities[end - 1]
            options = [(best[cut][0] + self.cost.of(end - cut, capacity), cut) for cut in range(end)]
            best.append(min(options))
        groups, end = [], len(rows)
        while end:
            cut = best[end][1]
            groups.append(Group(capacity=capacities[end - 1], rows=tuple(rows[cut:end])))
            end = cut
        groups.reverse()
        if _size(groups) <= num_slots:
            return groups
        by_capacity: dict[int, list[int]] = {}
        for row, capacity in zip(rows, capacities, strict=True):
            by_capacity.setdefault(capacity, []).append(row)
        groups = [Group(capacity=capacity, rows=tuple(members)) for capacity, members in by_capacity.items()]
        return groups if _size(groups) <= num_slots else None


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
