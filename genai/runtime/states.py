"""What rows hold beside keys and values: states, of one size however long a row's text is.

A row's states lie in a slot. Rows that run together lie side by side in the order of the cache's groups, so that a
group's states are one tensor, too; free slots hold what a row may have to go back to:

    slot  0                                num_slots
          │ a │ b │ c │ · │ d │ e │ b' │ · │      groups a b c and d e; b': the states that b had before a run

Without states everything here does nothing, and takes no memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from genai.contract import State
from genai.errors import CapacityError
from genai.runtime.floats import ITEM_SIZE, is_finite
from genai.runtime.layout import Group, Layout
from genai.runtime.providers.base import Buffer, Bytes, Provider


@dataclass(frozen=True, slots=True)
class _Kept:
    """States put aside: where, and after how many tokens."""

    slot: int
    num_tokens: int


class RowStates:
    """A slot of states for each row.

    num_slots: for rows and what is kept of them; every row has to have its slot, and a run alone may need one more.
    """

    def __init__(self, states: Sequence[State], num_slots: int, provider: Provider) -> None:
        self._states = states
        self._sizes = sizes_of(states)
        self._layout = Layout(num_slots if states else 0, roomy=1.0)
        self._buffers: list[Buffer] = [provider.allocate(num_slots * size) for size in self._sizes]
        self._kept: dict[int, _Kept] = {}

    @property
    def idle(self) -> tuple[int, ...]:
        """Rows that do not run and whose states are there."""
        return self._layout.idle

    @property
    def num_spare(self) -> int:
        """Slots that no row has, and nothing is kept in."""
        return self._layout.num_slots - len(self._taken()) - len(self._kept)

    def slot(self, row: int) -> int:
        """Where a row's states lie."""
        return self._layout.place(row).start if self._sizes else 0

    def pointers(self, slot: int) -> list[int]:
        """Where a slot begins in each buffer."""
        return [buffer.pointer + slot * size for buffer, size in self._sized()]

    def check_room(self, num_rows: int) -> None:
        """Raises: CapacityError if so many rows cannot have states."""
        if self._sizes and num_rows > self._layout.num_slots:
            raise CapacityError(f"there is room for {self._layout.num_slots} rows' states, not for {num_rows}")

    def arrange(self, groups: Sequence[Group]) -> None:
        """Lay states out as rows run together; those of rows that are in no group are gone, unless they are idle."""
        if not self._sizes:
            return
        moves = self._layout.arrange([Group(capacity=1, rows=group.rows) for group in groups])
        for buffer, size in self._sized():
            buffer.arrange(moves, size)
        taken = self._taken()
        self._kept = {row: kept for row, kept in self._kept.items() if row in taken and kept.slot not in taken.values()}

    def clear(self, row: int) -> None:
        """Zeros: the states of a row without tokens."""
        for buffer, size in self._sized():
            buffer.clear(self.slot(row) * size, size)
        self._count(row)

    def copy(self, source: int, target: int) -> None:
        """Give a row the states of another one."""
        self._copy(self.slot(source), self.slot(target))
        self._count(target)

    def read(self, row: int) -> Iterator[Bytes]:
        """A copy of a row's states as raw bytes, one array for each."""
        for buffer, size in self._sized():
            yield buffer.read(self.slot(row) * size, size)

    def write(self, row: int, data: Sequence[Bytes]) -> None:
        """Overwrite a row's states with what `read` gave."""
        for (buffer, size), content in zip(self._sized(), data, strict=True):
            buffer.write(self.slot(row) * size, content)
        self._count(row)

    def is_finite(self, row: int) -> bool:
        """Whether a row's states are finite numbers, all of them."""
        pairs = zip(self._states, self.read(row), strict=True)
        return all(is_finite(data, state.dtype) for state, data in pairs)

    def keep(self, row: int, num_tokens: int) -> None:
        """Put a row's states, after so many tokens, aside: in a slot that is free, or an idle row's."""
        self.drop(row)
        taken = {*self._taken().values(), *(kept.slot for kept in self._kept.values())}
        slot = max(slot for slot in range(self._layout.num_slots) if slot not in taken)
        for other in self.idle:
            if self.slot(other) == slot:
                self._layout.forget(other)
        self._copy(self.slot(row), slot)
        self._kept[row] = _Kept(slot, num_tokens)

    def num_kept(self, row: int) -> int | None:
        """After how many tokens a row's states were kept; None if none are."""
        kept = self._kept.get(row)
        return None if kept is None else kept.num_tokens

    def go_back(self, row: int) -> int:
        """Give a row the states again that were kept of it, or zeros; returns after how many tokens they were."""
        kept = self._kept.get(row)
        if kept is None:
            self.clear(row)
            return 0
        self._copy(kept.slot, self.slot(row))
        return kept.num_tokens

    def drop(self, row: int) -> None:
        """Keep nothing of a row any more."""
        self._kept.pop(row, None)

    def retire(self, row: int) -> None:
        """Leave the states of a row that will be in no group where they lie, until others need the slot."""
        if self._sizes:
            self._layout.retire(row)

    def forget(self, row: int) -> None:
        """Let go of an idle row's states."""
        if self._sizes:
            self._layout.forget(row)

    def check_integrity(self) -> None:
        """Raises: AssertionError if slots overlap."""
        self._layout.check_integrity()
        taken = [*self._taken().values(), *(kept.slot for kept in self._kept.values())]
        assert len({*taken}) == len(taken), "what is kept lies in a row's slot"
        assert not {*taken} & {self.slot(row) for row in self.idle}, "an idle row lies in another's slot"

    def _taken(self) -> dict[int, int]:
        """The slot of each row in a group."""
        return {row: group.start + index for group in self._layout.groups for index, row in enumerate(group.rows)}

    def _copy(self, source: int, target: int) -> None:
        if source != target:
            for buffer, size in self._sized():
                buffer.copy(target * size, source * size, size)

    def _count(self, row: int) -> None:
        """From now on a row's states move with it."""
        if self._sizes:
            self._layout.set_valid(row, 1)

    def _sized(self) -> Iterator[tuple[Buffer, int]]:
        """Each buffer, and the bytes of a slot in it."""
        return zip(self._buffers, self._sizes, strict=True)


def num_state_slots(max_batch: int) -> int:
    """Slots that so many rows need: with one beside them for what is scored, and one to keep states in."""
    return max_batch + 2


def sizes_of(states: Sequence[State]) -> tuple[int, ...]:
    """Bytes that each of a row's states takes."""
    return tuple(math.prod(state.shape) * ITEM_SIZE[state.dtype] for state in states)
