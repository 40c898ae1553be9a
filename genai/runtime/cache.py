"""The KV cache: one arena for each cache of the graph, allocated once, and the rows in it.

A row is a number; where it lies is the layout's business (`layout.py`), and the graph sees it through a `View`: a
pointer and a shape [rows, capacity, width], bound as input and as output of TensorScatter alike.

Tokens are counted here, and what the layout counts are slots. They differ where rows begin with a reserved slot, whose
bytes come with the package (`genai/contract.py`):

    row   ▓████████▒▒▒···      ▓ reserved   █ valid tokens   ▒ being written   · free
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from genai.contract import Cache
from genai.errors import CapacityError
from genai.runtime.capacity import CapacityPolicy
from genai.runtime.layout import Group, Layout
from genai.runtime.providers.base import Buffer, Bytes, Provider

_ITEM_SIZE = {"float32": 4, "float16": 2, "bfloat16": 2}
_EXPONENTS = {"float32": 0x7F800000, "float16": 0x7C00, "bfloat16": 0x7F80}
"""The bits that are all set in what is not finite (IEEE 754)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheShape:
    """What a model's cache is made of: a buffer for each of the graph's caches, in their order."""

    caches: tuple[Cache, ...]
    dtype: str

    @property
    def slot_bytes(self) -> tuple[int, ...]:
        """Bytes that one token takes in each buffer."""
        return tuple(cache.width * _ITEM_SIZE[self.dtype] for cache in self.caches)

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token takes in all buffers."""
        return sum(self.slot_bytes)

    def is_finite(self, data: Iterable[npt.NDArray[np.uint8]]) -> bool:
        """Whether raw keys and values are finite numbers, all of them."""
        bits = _EXPONENTS[self.dtype]
        words = f"u{_ITEM_SIZE[self.dtype]}"
        return not any((np.bitwise_and(each.view(words), bits) == bits).any() for each in data)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Neighbouring rows as one tensor: [num_rows, capacity, width] from slot `start`; capacity in slots."""

    start: int
    num_rows: int
    capacity: int


class KVCache:
    """Rows of keys and values in preallocated memory.

    num_slots: what all rows together have, reserved ones included; policy: what decides where rows lie; reserved_slots:
    with which each row begins; is_damaged: copies were broken off, and what rows hold may not be theirs, until there
    are none. Nothing here allocates after construction.
    """

    def __init__(self, shape: CacheShape, num_slots: int, provider: Provider, row_start: Sequence[Bytes] = ()) -> None:
        """row_start: the reserved slot's bytes, one array for each buffer; none if rows have no such slot."""
        self.shape = shape
        self.policy = CapacityPolicy()
        self.reserved_slots = 1 if row_start else 0
        self.is_damaged = False
        self._row_start = row_start
        self._layout = Layout(num_slots)
        self._slot_bytes = shape.slot_bytes
        self._buffers: list[Buffer] = [provider.allocate(num_slots * slot_bytes) for slot_bytes in self._slot_bytes]
        self._needs: dict[int, int] = {}  # slots that each row asked room for
        self._next_row = 0

    @property
    def num_slots(self) -> int:
        """What all rows together have room for."""
        return self._layout.num_slots

    @property
    def rows(self) -> tuple[int, ...]:
        """All rows, in the order in which they lie."""
        return tuple(row for group in self._layout.groups for row in group.rows)

    @property
    def groups(self) -> tuple[Group, ...]:
        """Rows by the groups in which they run."""
        return self._layout.groups

    @property
    def idle(self) -> tuple[int, ...]:
        """Rows that do not run and keep what they hold until others need the room; the oldest first."""
        return self._layout.idle

    def valid(self, row: int) -> int:
        """How many tokens a row holds."""
        return self._layout.valid(row) - self.reserved_slots

    def capacity(self, row: int) -> int:
        """How many tokens a row can hold where it lies."""
        return self._layout.place(row).capacity - self.reserved_slots - self.policy.spare

    def slots(self, num_tokens: int) -> int:
        """What a row of so many tokens takes."""
        return self.reserved_slots + num_tokens

    def would_hold(self, needs: Sequence[int]) -> bool:
        """Whether rows of these lengths, and no others, would fit."""
        return self.policy.fit_together([*map(self.slots, needs)], self.num_slots)

    def num_worth_running(self, needs: Sequence[int]) -> int:
        """How many rows of these lengths, the first in line first and no others, should run together."""
        return self.policy.num_worth_running([*map(self.slots, needs)], self.num_slots)

    def allocate(self, num_tokens: int) -> int:
        """A new, empty row with room for this many tokens. Raises: CapacityError; nothing has changed then."""
        row = self._next_row
        self._arrange({**self._needs, row: self.slots(max(num_tokens, 1))})
        self._next_row += 1
        if self.reserved_slots:
            self._begin(row)
        return row

    def reserve(self, needs: Mapping[int, int]) -> None:
        """Make room in rows for so many tokens each, all at once. Raises: CapacityError; nothing has changed then."""
        grown = {row: max(self.slots(need), self._needs[row]) for row, need in needs.items()}
        if any(need + self.policy.spare > self._layout.place(row).capacity for row, need in grown.items()):
            self._arrange({**self._needs, **grown})
        else:
            self._needs.update(grown)

    def free(self, row: int) -> None:
        """Forget a row; the last one of its group moves into its place."""
        self._arrange({other: need for other, need in self._needs.items() if other != row})

    def retire(self, row: int) -> None:
        """Free a row, but keep what it holds for `revive`, if that takes no copy, until others need the room."""
        self._layout.retire(row)
        self.free(row)

    def revive(self, row: int, num_tokens: int, room: int) -> None:
        """Run an idle row again, with its first tokens and room for `room`: where it lies, if there is room.

        Raises: CapacityError; nothing has changed then.
        """
        held = self._layout.valid(row)
        self._layout.set_valid(row, self.slots(num_tokens))
        try:
            self._arrange({**self._needs, row: self.slots(max(num_tokens, room))})
        except CapacityError:
            self._layout.set_valid(row, held)
            raise

    def forget(self, row: int) -> None:
        """Let go of what an idle row holds."""
        self._layout.forget(row)

    def truncate(self, row: int, num_tokens: int) -> None:
        """Keep a row's first tokens only: rewinding costs nothing."""
        if num_tokens > self.valid(row):
            raise CapacityError(f"cannot keep {num_tokens} tokens of a row that holds {self.valid(row)}")
        self._layout.set_valid(row, self.slots(num_tokens))
        self._needs[row] = self.slots(max(num_tokens, 1))

    def extend(self, row: int, num_tokens: int) -> None:
        """Count tokens that the graph has just written."""
        self._layout.set_valid(row, self._layout.valid(row) + num_tokens)

    def is_finite(self, row: int, start: int, end: int) -> bool:
        """Whether what lies in a row's slots from `start` to `end`, valid or not, are finite numbers."""
        return self.shape.is_finite(self.export_row(row, start, end))

    def clear_behind(self, row: int) -> None:
        """Zero what lies in a row's slots behind its valid part."""
        place, valid = self._layout.place(row), self._layout.valid(row)
        start, size = place.start + valid, place.capacity - valid
        for buffer, slot_bytes in self._sized():
            buffer.clear(start * slot_bytes, size * slot_bytes)

    def fork(self, row: int, num_tokens: int, room: int = 0) -> int:
        """A new row that begins with a copy of another's first tokens, with room for `room`. Raises: CapacityError."""
        if num_tokens > self.valid(row):
            raise CapacityError(f"cannot fork {num_tokens} tokens of a row that holds {self.valid(row)}")
        with self._new_row(max(num_tokens, room)) as new:
            self._copy(row, new, 0, num_tokens)
            self._layout.set_valid(new, self.slots(num_tokens))
        return new

    def copy(self, source: int, target: int, start: int, end: int) -> None:
        """Overwrite a row's tokens from `start` with those of another, up to `end`: what two beams do not share.

        Raises: CapacityError if the target is too short for them; nothing has changed then.
        """
        if not start <= self.valid(target) or end > self.valid(source):
            raise CapacityError(f"tokens {start} to {end} cannot be copied from row {source} to row {target}")
        self.reserve({target: end})
        self._copy(source, target, start, end)
        self._layout.set_valid(target, self.slots(end))

    def export_row(self, row: int, start: int = 0, end: int | None = None) -> Iterator[npt.NDArray[np.uint8]]:
        """A copy of a row's tokens from `start` to `end` (default: all) as raw bytes, one array for each buffer."""
        end = self.valid(row) if end is None else end
        first = self._slot(row, start)
        for buffer, slot_bytes in self._sized():
            yield buffer.read(first * slot_bytes, (end - start) * slot_bytes)

    def import_row(self, data: Iterable[npt.NDArray[np.uint8]], num_tokens: int, room: int = 0) -> int:
        """A new row of so many tokens from what `export_row` gave, with room for more. Raises: CapacityError."""
        with self._new_row(max(num_tokens, room)) as row:
            first = self._slot(row, 0)
            for (buffer, slot_bytes), content in zip(self._sized(), data, strict=True):
                buffer.write(first * slot_bytes, content)
            self._layout.set_valid(row, self.slots(num_tokens))
        return row

    def view(self, row: int, num_tokens: int) -> View:
        """One row alone, no longer than it has to be for this many tokens."""
        place = self._layout.place(row)
        capacity = min(self.policy.capacity(self.slots(num_tokens)), place.capacity)
        return View(start=place.start, num_rows=1, capacity=capacity)

    def rows_view(self, rows: Sequence[int]) -> View:
        """Neighbours in a group, in the order in which they lie."""
        place = self._layout.place(rows[0])
        return View(start=place.start, num_rows=len(rows), capacity=place.capacity)

    def group_view(self, group: Group, num_tokens: int) -> View:
        """All rows of a group; a row that is alone gets no more capacity than so many further tokens need."""
        if len(group.rows) == 1:
            return self.view(group.rows[0], self.valid(group.rows[0]) + num_tokens)
        return View(start=group.start, num_rows=len(group.rows), capacity=group.capacity)

    def pointers(self, view: View) -> list[int]:
        """Where a view begins in each buffer."""
        return [buffer.pointer + view.start * slot_bytes for buffer, slot_bytes in self._sized()]

    def check_integrity(self) -> None:
        """Raises: AssertionError if rows overlap or leave the arena."""
        self._layout.check_integrity()

    @contextmanager
    def _new_row(self, room: int) -> Iterator[int]:
        """A new row, which is there if the work inside does not fail."""
        row = self.allocate(room)
        try:
            yield row
        except BaseException:
            self.free(row)
            raise

    def _arrange(self, needs: dict[int, int]) -> None:
        """Lay rows out anew so that each has room for what it needs; nothing moves if nothing has to."""
        groups = self.policy.groups(needs, self.groups, self.num_slots)
        if groups is None:
            raise CapacityError(
                f"the KV cache holds {self.num_slots} tokens, {sum(needs.values())} in {len(needs)} rows do not fit"
                + (", a reserved one in each included" if self.reserved_slots else "")
            )
        if [(group.capacity, group.rows) for group in groups] != [(old.capacity, old.rows) for old in self.groups]:
            moves = self._layout.arrange(groups)
            was_damaged, self.is_damaged = self.is_damaged, True
            for buffer, slot_bytes in self._sized():
                buffer.arrange(moves, slot_bytes)
            self.is_damaged = was_damaged
        self._needs = needs
        self.is_damaged = self.is_damaged and bool(needs)

    def _begin(self, row: int) -> None:
        """Write what a new row begins with; the row is gone if that fails."""
        start = self._layout.place(row).start
        try:
            for (buffer, slot_bytes), content in zip(self._sized(), self._row_start, strict=True):
                buffer.write(start * slot_bytes, content)
        except BaseException:
            self.free(row)
            raise
        self._layout.set_valid(row, self.reserved_slots)

    def _sized(self) -> Iterator[tuple[Buffer, int]]:
        """Each buffer, and the bytes of a slot in it."""
        return zip(self._buffers, self._slot_bytes, strict=True)

    def _slot(self, row: int, token: int) -> int:
        """Where a row's token lies."""
        return self._layout.place(row).start + self.slots(token)

    def _copy(self, source: int, target: int, start: int, end: int) -> None:
        """Tokens of one row over those of another."""
        first, target_first, size = self._slot(source, start), self._slot(target, start), end - start
        for buffer, slot_bytes in self._sized():
            buffer.copy(target_first * slot_bytes, first * slot_bytes, size * slot_bytes)
