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

from collections.abc import Sequence
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
        placed: list[Group | None] = []
        for group in groups:
            old = self._places.get(group.rows[0])
            stays = old is not None and old.capacity == group.capacity
            moved = Group(capacity=group.capacity, rows=group.rows, start=old.start) if old and stays else None
            taken = [other for other in placed if other]
            placed.append(moved if moved and not _collides(moved, taken, self.num_slots) else None)
        for index, group in enumerate(groups):
            if placed[index] is None:
                start = _first_fit(group, [other for other in placed if other], self.num_slots)
                if start is None:  # fragmented: push everything together
                    return _packed(groups)
                placed[index] = Group(capacity=group.capacity, rows=group.rows, start=start)
        return [group for group in placed if group]

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


def _collides(group: Group, taken: Sequence[Group], num_slots: int) -> bool:
    """Whether a group leaves the arena or overlaps one that is already placed."""
    end = group.start + group.num_slots
    return end > num_slots or any(other.start < end and group.start < other.start + other.num_slots for other in taken)


def _first_fit(group: Group, taken: Sequence[Group], num_slots: int) -> int | None:
    """The first gap between the groups already placed that is large enough."""
    start = 0
    for other in sorted(taken, key=lambda other: other.start):
        if other.start - start >= group.num_slots:
            return start
        start = max(start, other.start + other.num_slots)
    return start if num_slots - start >= group.num_slots else None


def _ordered(moves: list[Move]) -> list[Move]:
    """Moves in an order in which none overwrites another's source; a cycle is broken through the stash."""
    pending, ordered, stashed = list(moves), [], []
    while pending:
        free = next((move for move in pending if not _overwrites(move, pending)), None)
        if free is not None:
            pending.remove(free)
            ordered.append(free)
            continue
        smallest = min(pending, key=lambda move: move.length)
        pending.remove(smallest)
        ordered.append(Move(smallest.row, smallest.source, None, smallest.length))
        stashed.append(Move(smallest.row, None, smallest.target, smallest.length))
    return ordered + stashed


def _overwrites(move: Move, pending: Sequence[Move]) -> bool:
    assert move.target is not None
    return any(
        other is not move
        and other.source is not None
        and other.source < move.target + move.length
        and move.target < other.source + other.length
        for other in pending
    )
