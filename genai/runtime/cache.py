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

from genai.contract import Cache, State
from genai.errors import CapacityError
from genai.runtime.capacity import CapacityPolicy
from genai.runtime.floats import ITEM_SIZE, is_finite
from genai.runtime.layout import Group, Layout
from genai.runtime.providers.base import Buffer, Bytes, Provider
from genai.runtime.states import RowStates, num_state_slots, sizes_of


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheShape:
    """What a model's cache is made of: a buffer for each of the graph's caches and states, in their order."""

    caches: tuple[Cache, ...]
    dtype: str
    states: tuple[State, ...] = ()

    @property
    def slot_bytes(self) -> tuple[int, ...]:
        """Bytes that one token takes in each buffer."""
        return tuple(cache.width * ITEM_SIZE[self.dtype] for cache in self.caches)

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token takes in all buffers."""
        return sum(self.slot_bytes)

    @property
    def state_bytes(self) -> tuple[int, ...]:
        """Bytes that each of a row's states takes, however many tokens it holds."""
        return sizes_of(self.states)

    @property
    def bytes_per_row(self) -> int:
        """Bytes that a row's states take."""
        return sum(self.state_bytes)

    def is_finite(self, data: Iterable[Bytes]) -> bool:
        """Whether raw keys and values are finite numbers, all of them."""
        return all(is_finite(each, self.dtype) for each in data)

    def is_finite_row(self, data: Sequence[Bytes]) -> bool:
        """The same of raw keys and values of a row, with its states behind them."""
        count = len(self.caches)
        pairs = zip(data[count:], self.states, strict=True)
        return self.is_finite(data[:count]) and all(is_finite(each, state.dtype) for each, state in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Neighbouring rows as one tensor: [num_rows, capacity, width] from slot `start`; capacity in slots.

    first_state: where the first row's states lie, those of the others behind it.
    """

    start: int
    num_rows: int
    capacity: int
    first_state: int


class KVCache:
    """Rows of keys and values, and of states where the graph has them, in preallocated memory.

    num_slots: what all rows together have, reserved ones included; policy: what decides where rows lie; reserved_slots:
    with which each row begins; is_damaged: copies were broken off, and what rows hold may not be theirs, until there
    are none. Nothing here allocates after construction.

    States cannot be cut back. So a row with states goes on from all of its tokens, or from those at which they were
    kept, or from none. lost: rows that a run has left without tokens, because their states were no finite numbers any
    more; who makes them whole empties it.
    """

    def __init__(
        self,
        shape: CacheShape,
        num_slots: int,
        provider: Provider,
        row_start: Sequence[Bytes] = (),
        *,
        max_batch: int = 1,
    ) -> None:
        """row_start: the reserved slot's bytes, one array for each buffer; none if rows have no such slot.

        max_batch: rows that run together, which states have to have slots for.
        """
        self.shape = shape
        self.policy = CapacityPolicy()
        self.reserved_slots = 1 if row_start else 0
        self.is_damaged = False
        self._row_start = row_start
        self._layout = Layout(num_slots)
        self._slot_bytes = shape.slot_bytes
        self._buffers: list[Buffer] = [provider.allocate(num_slots * slot_bytes) for slot_bytes in self._slot_bytes]
        self._states = RowStates(shape.states, num_state_slots(max_batch), provider)
        self.lost: set[int] = set()
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

    @property
    def has_states(self) -> bool:
        """Whether rows have states, which cannot be cut back."""
        return bool(self.shape.states)

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

    def has_room(self, needs: Sequence[int]) -> bool:
        """Whether rows of these lengths, and no others, run together nearly as fast as with any memory."""
        return self.policy.has_room([*map(self.slots, needs)], self.num_slots)

    def num_worth_running(self, needs: Sequence[int]) -> int:
        """How many rows of these lengths, the first in line first and no others, should run together."""
        return self.policy.num_worth_running([*map(self.slots, needs)], self.num_slots)

    def allocate(self, num_tokens: int) -> int:
        """A new, empty row with room for this many tokens. Raises: CapacityError; nothing has changed then."""
        row = self._next_row
        self._arrange({**self._needs, row: self.slots(max(num_tokens, 1))})
        self._next_row += 1
        if self.reserved_slots or self.has_states:
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
        self._states.retire(row)
        self.free(row)

    def revive(self, row: int, num_tokens: int, room: int) -> None:
        """Run an idle row again, with its first tokens and room for `room`: where it lies, if there is room.

        Raises: CapacityError; nothing has changed then.
        """
        self._require_whole(row, num_tokens)
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
        self._states.forget(row)

    def truncate(self, row: int, num_tokens: int) -> None:
        """Keep a row's first tokens only: rewinding costs nothing. Of one with states all are kept, or none."""
        if num_tokens > self.valid(row):
            raise CapacityError(f"cannot keep {num_tokens} tokens of a row that holds {self.valid(row)}")
        if num_tokens:
            self._require_whole(row, num_tokens)
        elif self.valid(row):
            self._states.clear(row)
            self._states.drop(row)
        self._layout.set_valid(row, self.slots(num_tokens))
        self._needs[row] = self.slots(max(num_tokens, 1))

    def extend(self, row: int, num_tokens: int) -> None:
        """Count tokens that the graph has just written."""
        self._layout.set_valid(row, self._layout.valid(row) + num_tokens)

    def is_finite(self, row: int, start: int, end: int) -> bool:
        """Whether what lies in a row's slots from `start` to `end`, valid or not, are finite numbers."""
        return self.shape.is_finite(self.export_row(row, start, end))

    def has_finite_states(self, row: int) -> bool:
        """Whether a row's states, if it has any, are finite numbers."""
        return self._states.is_finite(row)

    @property
    def num_spare(self) -> int:
        """Of how many more rows states can be kept at once."""
        return self._states.num_spare

    @contextmanager
    def kept(self, row: int) -> Iterator[None]:
        """As `keep`, for the work inside; what is kept of the row already stays as it is, and stays kept."""
        if not self.has_states or self._states.num_kept(row) is not None:
            yield
            return
        self.keep(row)
        try:
            yield
        finally:
            self.drop(row)

    def keep(self, row: int) -> None:
        """Put a row's states aside for `go_back`, until `drop`: nothing is copied of a row that holds nothing."""
        if self.has_states and self.valid(row):
            self._states.keep(row, self.valid(row))
            self._forget_parts()

    def num_kept(self, row: int) -> int | None:
        """With how many tokens a row's states are kept; None if they are not."""
        return self._states.num_kept(row)

    def drop(self, row: int) -> None:
        """Do not keep a row's states any longer."""
        self._states.drop(row)

    def go_back(self, row: int) -> int:
        """Let a row hold what it did when its states were kept, or nothing; returns how many tokens those are."""
        num_tokens = self._states.go_back(row)
        self._layout.set_valid(row, self.slots(num_tokens))
        return num_tokens

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
        self._require_whole(row, num_tokens)
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
        self._require_whole(source, end)
        self.reserve({target: end})
        self._copy(source, target, start, end)
        self._layout.set_valid(target, self.slots(end))

    def export_row(self, row: int, start: int = 0, end: int | None = None) -> Iterator[Bytes]:
        """A copy of a row's tokens from `start` to `end` (default: all) as raw bytes, one array for each buffer."""
        end = self.valid(row) if end is None else end
        first = self._slot(row, start)
        for buffer, slot_bytes in self._sized():
            yield buffer.read(first * slot_bytes, (end - start) * slot_bytes)

    def export_states(self, row: int) -> Iterator[Bytes]:
        """A copy of a row's states as raw bytes, one array for each."""
        return self._states.read(row)

    def import_row(self, data: Iterable[Bytes], num_tokens: int, room: int = 0, *, states: Sequence[Bytes] = ()) -> int:
        """A new row of so many tokens from what `export_row` gave, with room for more. Raises: CapacityError.

        states: what `export_states` gave.
        """
        with self._new_row(max(num_tokens, room)) as row:
            self.fill(row, data, num_tokens, states=states)
        return row

    def fill(self, row: int, data: Iterable[Bytes], num_tokens: int, *, states: Sequence[Bytes] = ()) -> None:
        """Overwrite all that a row holds, as `import_row` fills a new one. Raises: CapacityError."""
        self.reserve({row: num_tokens})
        first = self._slot(row, 0)
        for (buffer, slot_bytes), content in zip(self._sized(), data, strict=True):
            buffer.write(first * slot_bytes, content)
        self._states.write(row, states)
        self._states.drop(row)
        self._layout.set_valid(row, self.slots(num_tokens))

    def view(self, row: int, num_tokens: int) -> View:
        """One row alone, no longer than it has to be for this many tokens."""
        place = self._layout.place(row)
        capacity = min(self.policy.capacity(self.slots(num_tokens)), place.capacity)
        return View(start=place.start, num_rows=1, capacity=capacity, first_state=self._states.slot(row))

    def rows_view(self, rows: Sequence[int]) -> View:
        """Neighbours in a group, in the order in which they lie."""
        place = self._layout.place(rows[0])
        first_state = self._states.slot(rows[0])
        return View(start=place.start, num_rows=len(rows), capacity=place.capacity, first_state=first_state)

    def group_view(self, group: Group, num_tokens: int) -> View:
        """All rows of a group; a row that is alone gets no more capacity than so many further tokens need."""
        if len(group.rows) == 1:
            return self.view(group.rows[0], self.valid(group.rows[0]) + num_tokens)
        return self.rows_view(group.rows)

    def pointers(self, view: View) -> list[int]:
        """Where a view begins in each cache's buffer."""
        return [buffer.pointer + view.start * slot_bytes for buffer, slot_bytes in self._sized()]

    def state_pointers(self, view: View) -> list[int]:
        """Where a view begins in each state's buffer."""
        return self._states.pointers(view.first_state)

    def check_integrity(self) -> None:
        """Raises: AssertionError if rows overlap or leave the arena."""
        self._layout.check_integrity()
        self._states.check_integrity()

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
        self._states.check_room(len(needs))
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
            self._states.arrange(self.groups)
            self._forget_parts()
            self.is_damaged = was_damaged
        self._needs = needs
        self.is_damaged = self.is_damaged and bool(needs)

    def _begin(self, row: int) -> None:
        """Write what a new row begins with; the row is gone if that fails."""
        start = self._layout.place(row).start
        try:
            if self.reserved_slots:
                for (buffer, slot_bytes), content in zip(self._sized(), self._row_start, strict=True):
                    buffer.write(start * slot_bytes, content)
            self._states.clear(row)
        except BaseException:
            self.free(row)
            raise
        self._layout.set_valid(row, self.reserved_slots)

    def _forget_parts(self) -> None:
        """Of an idle row that is only half there, keys and values or states, nothing is of use."""
        if self.has_states:
            for row in {*self._layout.idle} ^ {*self._states.idle}:
                (self._layout if row in self._layout.idle else self._states).forget(row)

    def _require_whole(self, row: int, num_tokens: int) -> None:
        """States belong to all of a row's tokens: who cuts it back has to go back to others, or begin anew."""
        held = self.valid(row)
        assert not self.has_states or num_tokens == held, (
            f"{num_tokens} tokens of a row with states, which holds {held}"
        )

    def _sized(self) -> Iterator[tuple[Buffer, int]]:
        """Each cache's buffer, and the bytes of a slot in it."""
        return zip(self._buffers, self._slot_bytes, strict=True)

    def _slot(self, row: int, token: int) -> int:
        """Where a row's token lies."""
        return self._layout.place(row).start + self.slots(token)

    def _copy(self, source: int, target: int, start: int, end: int) -> None:
        """Tokens of one row over those of another, and its states."""
        first, target_first, size = self._slot(source, start), self._slot(target, start), end - start
        for buffer, slot_bytes in self._sized():
            buffer.copy(target_first * slot_bytes, first * slot_bytes, size * slot_bytes)
        self._states.copy(source, target)
        self._states.drop(target)
