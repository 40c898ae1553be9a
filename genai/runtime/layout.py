"""Which tokens of the arena belong to which row: the allocator, in plain Python.

The arena is a line of token slots, the same for every layer. Rows of one capacity that run together form a group, and
a group's rows lie side by side, so that the group (or any one row, or a prefix of a row) is one contiguous tensor:

    slot  0                                                                    num_slots
          ├──── group 0: 3 rows × capacity 4 ────┼─ group 1: 1 row × 16 ─┼─ free ─┤
          │ a a a . │ b b . . │ c c c c │ d d d d d d d d d . . . . . . . │
            └ valid ┘

Every change goes through `arrange`: it takes the groups as they should be and answers with the copies that get there.
Only valid prefixes are copied, in an order in which no copy overwrites what another still has to read.

A row may be there from a later token on: its *base*. What is before that is gone.

A row may stay where it lies without running: idle, between the groups. Its slots are free. Groups that have to be
placed go elsewhere if that costs nothing, and onto it otherwise; then it is gone.
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


_ROOMY = 0.25
"""As long as no more of the arena is taken, idle rows are spared: in a fuller one that would lead to copies."""


class Layout:
    """The groups, the idle rows (the oldest first), and each row's valid length and base.

    roomy: the share of the arena that groups may take for idle rows to be spared.
    """

    def __init__(self, num_slots: int, roomy: float = _ROOMY) -> None:
        self.num_slots = num_slots
        self._roomy = roomy
        self.groups: tuple[Group, ...] = ()
        self.idle: tuple[int, ...] = ()
        self._valid: dict[int, int] = {}
        self._bases: dict[int, int] = {}  # of those that have one
        self._places: dict[int, Place] = {}

    def place(self, row: int) -> Place:
        """Where a row is."""
        return self._places[row]

    def valid(self, row: int) -> int:
        """A row's valid length in slots."""
        return self._valid[row]

    def set_valid(self, row: int, length: int) -> None:
        """Set a row's valid length in slots: after a write, or smaller to rewind."""
        if not 0 <= length <= self._places[row].capacity:
            raise CapacityError(f"valid length {length} of a row with capacity {self._places[row].capacity}")
        self._valid[row] = length

    def base(self, row: int) -> int:
        """How many of a row's first tokens are not there."""
        return self._bases.get(row, 0)

    def set_base(self, row: int, num_tokens: int) -> None:
        """Count so many of a row's first tokens as gone; its valid length is the caller's to set."""
        self._bases[row] = num_tokens

    def retire(self, row: int) -> None:
        """Make a row idle: the next arrangement has no place for it, and spares what it holds if it can."""
        self.idle = (*self.idle, row)

    def forget(self, row: int) -> None:
        """Let go of an idle row."""
        self.idle = tuple(other for other in self.idle if other != row)
        del self._places[row], self._valid[row]
        self._bases.pop(row, None)

    def arrange(self, groups: Sequence[Group]) -> list[Move]:
        """Make the groups these (their `start` is chosen here); rows that are in none of them are freed, unless idle.

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
        idle = [row for row in self.idle if row not in places]
        taken = sorted((group.start, group.start + group.num_slots) for group in placed) if idle else []
        self.idle = tuple(row for row in idle if _is_free(self._held(row), taken))
        self.groups, self._places = tuple(placed), places | {row: self._places[row] for row in self.idle}
        self._valid = {row: self._valid.get(row, 0) for row in self._places}
        self._bases = {row: base for row, base in self._bases.items() if base and row in self._places}
        return _ordered(moves)

    def _held(self, row: int) -> tuple[int, int]:
        """First slot and end of what an idle row holds."""
        start = self._places[row].start
        return start, start + self._valid[row]

    def _placed(self, groups: Sequence[Group]) -> list[Group]:
        """Starts for the groups, so that little is copied; the newest idle rows are spared where that is possible."""
        is_roomy = sum(group.num_slots for group in groups) <= self._roomy * self.num_slots
        wanted = {row for group in groups for row in group.rows} if self.idle else ()
        idle = [self._held(row) for row in self.idle if is_roomy and row not in wanted]
        while (starts := self._starts(groups, idle)) is None:
            if not idle:  # fragmented: push everything together
                return _packed(groups)
            del idle[: (len(idle) + 1) // 2]
        return [
            Group(capacity=group.capacity, rows=group.rows, start=start)
            for group, start in zip(groups, starts, strict=True)
        ]

    def _starts(self, groups: Sequence[Group], idle: Sequence[tuple[int, int]]) -> list[int] | None:
        """Where each group begins: its first row stays where it is if that is possible; None if there is no gap."""
        starts: list[int | None] = [None] * len(groups)
        taken: list[tuple[int, int]] = []  # first slot and end of what is placed, in order
        end = 0
        for start, index in sorted(self._stays(groups)):
            if start >= end and start + groups[index].num_slots <= self.num_slots:
                starts[index], end = start, start + groups[index].num_slots
                taken.append((start, end))
        spared = sorted([*taken, *idle])
        for index, group in enumerate(groups):
            if starts[index] is None:
                old = self._places.get(group.rows[0])
                span = (old.start, old.start + group.num_slots) if old is not None else (0, 0)
                if old is None or span[1] > self.num_slots or not _is_free(span, taken):
                    is_new = not any(self._valid.get(row) for row in group.rows)
                    gap = _first_gap(group.num_slots, spared if is_new else taken, self.num_slots)
                    if gap is None:
                        return None
                    span = (gap, gap + group.num_slots)
                starts[index] = span[0]
                bisect.insort(taken, span)
                bisect.insort(spared, span)
        return [start or 0 for start in starts]

    def _stays(self, groups: Sequence[Group]) -> Iterator[tuple[int, int]]:
        """Where groups would begin, and which they are, whose first row has the room already that it is to have."""
        for index, group in enumerate(groups):
            old = self._places.get(group.rows[0])
            if old is not None and old.capacity == group.capacity and group.rows[0] not in self.idle:
                yield old.start, index

    def check_integrity(self) -> None:
        """Raises: AssertionError if rows overlap, leave the arena, or hold more than their capacity."""
        end = 0
        spans = [(group.start, group.start + group.num_slots) for group in self.groups]
        for start, after in sorted([*spans, *(self._held(row) for row in self.idle)]):
            assert start >= end, "rows overlap"
            end = after
        assert self._places.keys() == {*self.idle, *(row for group in self.groups for row in group.rows)}
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


def _is_free(span: tuple[int, int], taken: Sequence[tuple[int, int]]) -> bool:
    """Whether slots overlap nothing of what is placed, which is in order."""
    place = bisect.bisect_left(taken, span)
    is_before_next = place == len(taken) or span[1] <= taken[place][0]
    return is_before_next and (place == 0 or taken[place - 1][1] <= span[0])


def _first_gap(size: int, taken: Sequence[tuple[int, int]], num_slots: int) -> int | None:
    """Where the first gap begins between what is placed that is large enough."""
    start = 0
    for other, end in taken:
        if other - start >= size:
            return start
        start = max(start, end)
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
