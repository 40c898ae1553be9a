"""Which tokens of the arena belong to which row: the allocator, in plain Python.

The arena is a line of token slots, the same for every layer. Rows of one capacity that run together form a group, and
a group's rows lie side by side, so that the group (or any one row, or a prefix of a row) is one contiguous tensor:

    slot  0                                                                    num_slots
          ├──── group 0: 3 rows × capacity 4 ────┼─ group 1: 1 row × 16 ─┼─ free ─┤
          │ a a a . │ b b . . │ c c c c │ d d d d d d d d d . . . . . . . │
            └ valid ┘

Every change goes through `arrange`: it takes the groups as they should be and answers with the copies that get there.
Only valid prefixes are copied, in an order in which no copy overwrites what another still has to read.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from genai.errors import CapacityError


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Rows of one capacity that run together; they begin at slot `start`, one after another."""

    capacity: int
    rows: tuple[int, ...]
    start: int = 0

    @property
    def num_slots(self) -> int:
        """Slots that the group takes."""
        return self.capacity * len(self.rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a row is: its first slot, and how many slots it has."""

    start: int
    capacity: int


@dataclass(frozen=True, slots=True)
class Move:
    """Copy `length` slots from `source` to `target`; None stands for a stash outside of the arena."""

    row: int
    source: int | None
    target: int | None
    length: int


class Layout:
    """The groups, and each row's valid length."""

    def __init__(self, num_slots: int) -> None:
        self.num_slots = num_slots
        self.groups: tuple[Group, ...] = ()
        self._valid: dict[int, int] = {}
        self._places: dict[int, Place] = {}

    def place(self, row: int) -> Place:
        """Where a row is."""
        return self._places[row]

    def valid(self, row: int) -> int:
        """A row's valid length in tokens."""
        return self._valid[row]

    def set_valid(self, row: int, length: int) -> None:
        """Set a row's valid length: after a write, or smaller to rewind."""
        if not 0 <= length <= self._places[row].capacity:
            raise CapacityError(f"valid length {length} of a row with capacity {self._places[row].capacity}")
        self._valid[row] = length

    def arrange(self, groups: Sequence[Group]) -> list[Move]:
        """Make the groups these (their `start` is chosen here); rows that are in none of them are freed.

        Returns the copies to make, in order. Raises: CapacityError if they do not fit; then nothing has changed.
        """
        groups = [group for group in groups if group.rows]
        if (needed := sum(group.num_slots for group in groups)) > self.num_slots:
            raise CapacityError(f"the KV cache holds {self.num_slots} tokens, {needed} are needed")
        placed = self._placed(groups)
        places = {
            row: Place(start=group.start + index * group.capacity, capacity=group.capacity)
            for group in placed
            for index, row in enumerate(group.rows)
        }
        for row, place in places.items():
            if self._valid.get(row, 0) > place.capacity:
                raise CapacityError(f"a row of {self._valid[row]} tokens does not fit capacity {place.capacity}")
        moves = [
            Move(row, self._places[row].start, place.start, self._valid[row])
            for row, place in places.items()
            if row in self._places and self._places[row].start != place.start and self._valid[row]
        ]
        self.groups, self._places = tuple(placed), places
        self._valid = {row: self._valid.get(row, 0) for row in places}
        return _ordered(moves)

    def _placed(self, groups: Sequence[Group]) -> list[Group]:
        """Starts for the groups: where their first row is already if that is possible, so that little is copied."""
        starts: list[int | None] = [None] * len(groups)
        taken: list[tuple[int, int]] = []  # first slot and end of what is placed, in order
        end = 0
        for start, index in sorted(self._stays(groups)):
            if start >= end and start + groups[index].num_slots <= self.num_slots:
                starts[index], end = start, start + groups[index].num_slots
                taken.append((start, end))
        for index, group in enumerate(groups):
            if starts[index] is None:
                gap = _first_gap(group.num_slots, taken, self.num_slots)
                if gap is None:  # fragmented: push everything together
                    return _packed(groups)
                starts[index] = gap
                bisect.insort(taken, (gap, gap + group.num_slots))
        return [
            Group(capacity=group.capacity, rows=group.rows, start=start or 0)
            for group, start in zip(groups, starts, strict=True)
        ]

    def _stays(self, groups: Sequence[Group]) -> Iterator[tuple[int, int]]:
        """Where groups would begin, and which they are, whose first row could stay where it is."""
        for index, group in enumerate(groups):
            old = self._places.get(group.rows[0])
            if old is not None and old.capacity == group.capacity:
                yield old.start, index

    def check_integrity(self) -> None:
        """Raises: AssertionError if rows overlap, leave the arena, or hold more than their capacity."""
        end = 0
        for place in sorted(self._places.values(), key=lambda place: place.start):
            assert place.start >= end, "rows overlap"
            end = place.start + place.capacity
        assert end <= self.num_slots, "a row leaves the arena"
        assert self._places.keys() == self._valid.keys()
        assert all(0 <= self._valid[row] <= place.capacity for row, place in self._places.items())


def _packed(groups: Sequence[Group]) -> list[Group]:
    """One group after the other, without gaps."""
    placed, start = [], 0
    for group in groups:
        placed.append(Group(capacity=group.capacity, rows=group.rows, start=start))
        start += group.num_slots
    return placed


def _first_gap(size: int, taken: Sequence[tuple[int, int]], num_slots: int) -> int | None:
    """Where the first gap begins between what is placed that is large enough."""
    start = 0
    for other, end in taken:
        if other - start >= size:
            return start
        start = end
    return start if num_slots - start >= size else None


def _ordered(moves: Sequence[Move]) -> list[Move]:
    """Moves in an order in which none overwrites another's source; a cycle is broken through the stash."""
    waits_for, holds_up = _conflicts(moves)
    free = deque(index for index, count in enumerate(waits_for) if not count)
    shortest_first = iter(sorted(range(len(moves)), key=lambda index: moves[index].length))
    done: set[int] = set()
    ordered: list[Move] = []
    stashed: list[Move] = []
    while len(done) < len(moves):
        index = free.popleft() if free else next(index for index in shortest_first if index not in done)
        move = moves[index]
        done.add(index)
        if waits_for[index]:
            ordered.append(Move(move.row, move.source, None, move.length))
            stashed.append(Move(move.row, None, move.target, move.length))
        else:
            ordered.append(move)
        for other in holds_up[index]:
            waits_for[other] -= 1
            if not waits_for[other] and other not in done:
                free.append(other)
    return ordered + stashed


def _conflicts(moves: Sequence[Move]) -> tuple[list[int], list[list[int]]]:
    """For each move: how many others it has to wait for, and which wait for it.

    A move waits for all whose source it overwrites. Sources do not overlap each other, nor do targets: there are at
    most two conflicts a move in all.
    """
    by_source = sorted((move.source or 0, index) for index, move in enumerate(moves))
    waits_for = [0] * len(moves)
    holds_up: list[list[int]] = [[] for _ in moves]
    for index, move in enumerate(moves):
        target = move.target or 0
        place = max(bisect.bisect_right(by_source, (target, len(moves))) - 1, 0)
        for source, other in by_source[place:]:
            if source >= target + move.length:
                break
            if other != index and source + moves[other].length > target:
                waits_for[index] += 1
                holds_up[other].append(index)
    return waits_for, holds_up
