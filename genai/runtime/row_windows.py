"""Where rows' last tokens lie in the caches of layers that see a window, and which of them have gone.

They have a layout of their own, with the groups of all the others, in which rows are no longer than they have to be
(`windows.py`). Without such caches everything here does nothing, and takes no memory.
"""

from __future__ import annotations

from collections.abc import Sequence

from genai.errors import CapacityError
from genai.runtime.layout import Group, Layout, Move, Place
from genai.runtime.states import num_state_slots
from genai.runtime.windows import WindowRoom

_ROOMY = 0.5
"""The share of the room that rows may take for idle ones to be spared."""


class RowWindows:
    """Each row's last tokens: the first of them is its *base*, 0 of a row that is there as a whole.

    room: how much there is for a row, None where no layer sees a window; num_slots: of the arena of all the others.
    """

    def __init__(self, room: WindowRoom | None, num_slots: int, max_batch: int) -> None:
        self.room = room
        self.layout = Layout(num_window_slots(num_slots, room, max_batch), roomy=_ROOMY)
        self._is_scarce = self.layout.num_slots < num_slots  # else rows have no more here than elsewhere

    @property
    def layouts(self) -> list[Layout]:
        """The layout, if there is something to lay out."""
        return [] if self.room is None else [self.layout]

    def base(self, row: int) -> int:
        """How many of a row's first tokens are gone."""
        return self.layout.base(row)

    def num_held(self, row: int) -> int:
        """How many tokens are there."""
        return 0 if self.room is None else self.layout.valid(row) - self.room.reserved_slots

    def place(self, row: int) -> Place:
        """Where a row lies."""
        return Place(start=0, capacity=0) if self.room is None else self.layout.place(row)

    def reaches(self, row: int, num_tokens: int) -> bool:
        """Whether all is there that a row goes on from, if it is cut back to so many tokens."""
        return self.room is None or self.room.reaches(num_tokens, self.base(row))

    def first_kept(self, num_tokens: int) -> int:
        """The first token of so many that a row has to hold: 0 of one that fits as a whole."""
        if self.room is None or self.room.reserved_slots + num_tokens <= self.room.slots:
            return 0
        return self.room.base(num_tokens)

    def begin(self, row: int, base: int) -> None:
        """Have a row begin with another of its tokens; how many there are is counted by `set_valid`."""
        if self.room is not None:
            self.layout.set_base(row, base)

    def set_valid(self, row: int, num_tokens: int) -> None:
        """Count so many tokens of a row's text, those that are gone included."""
        if self.room is None:
            return
        if not num_tokens:
            self.layout.set_base(row, 0)
        self.layout.set_valid(row, self.room.reserved_slots + num_tokens - self.base(row))

    def check_room(self, num_rows: int) -> None:
        """Raises: CapacityError if so many rows, as long as they may be, find no room."""
        if self.room is not None and self._is_scarce and num_rows * self.room.slots > self.layout.num_slots:
            most = self.layout.num_slots // self.room.slots
            raise CapacityError(f"there is room for what windows see of {most} rows, not {num_rows}")

    def arrange(self, groups: Sequence[Group]) -> list[Move]:
        """Lay rows out as they run together; returns the copies to make."""
        if self.room is None:
            return []
        most = self.room.slots
        return self.layout.arrange([Group(capacity=min(group.capacity, most), rows=group.rows) for group in groups])

    def later_base(self, row: int, num_tokens: int, num_positions: int) -> int | None:
        """The base of a row of so many tokens that has to let go of some before a run of so many positions.

        A row that has lost some already loses others as soon as a block of them can go: so its views stay short.
        """
        if self.room is None:
            return None
        base, later = self.base(row), self.room.base(num_tokens)
        is_full = self.layout.valid(row) + num_positions > self.layout.place(row).capacity
        return later if later > base and (base or is_full) else None

    def move_down(self, row: int, base: int) -> Move:
        """Count a row's tokens before a later base as gone; returns the copy by which the others begin its room."""
        assert self.room is not None
        gone, reserved = base - self.base(row), self.room.reserved_slots
        first, left = self.layout.place(row).start + reserved, self.num_held(row) - gone
        self.layout.set_base(row, base)
        self.layout.set_valid(row, reserved + left)
        return Move(row, first + gone, first, left)


def num_window_slots(num_slots: int, room: WindowRoom | None, max_batch: int) -> int:
    """Slots for what windows see of so many rows, and two beside them, in an arena of so many; 0 without windows."""
    return 0 if room is None else min(num_slots, num_state_slots(max_batch) * room.slots)
