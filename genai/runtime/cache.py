"""The KV cache: one arena for each cache of the graph, allocated once, and the rows in it.

A row is a number; where it lies is the layout's business (`layout.py`), and the graph sees it through a `View`: a
pointer and a shape [rows, capacity, width], bound as input and as output of TensorScatter alike.

Tokens are counted here, and what the layout counts are slots. They differ where rows begin with a reserved slot, whose
bytes come with the package (`genai/contract.py`):

    row   ▓████████▒▒▒···      ▓ reserved   █ valid tokens   ▒ being written   · free

Caches of layers that see a window hold a row's last tokens alone, and have a layout of their own (`row_windows.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

from genai.errors import CapacityError
from genai.runtime.cache_shape import CacheShape, View
from genai.runtime.capacity import CapacityPolicy
from genai.runtime.layout import Group, Layout
from genai.runtime.providers.base import Buffer, Bytes, Provider
from genai.runtime.row_windows import RowWindows
from genai.runtime.states import RowStates, num_state_slots
from genai.runtime.windows import WindowRoom


class KVCache:
    """Rows of keys and values, and of states where the graph has them, in preallocated memory.

    num_slots: what all rows together have, reserved ones included; policy: what decides where rows lie; reserved_slots:
    with which each row begins; is_damaged: copies were broken off, and what rows hold may not be theirs, until there
    are none. Nothing here allocates after construction.

    States cannot be cut back. So a row with states goes on from all of its tokens, or from those at which they were
    kept, or from none. lost: rows that a run has left without tokens, because their states were no finite numbers any
    more; who makes them whole empties it. A row some of whose tokens are gone from what is kept for windows can be cut
    back by a few (`can_keep`). before_loss: told of a row some of whose tokens are about to go there.
    """

    def __init__(
        self,
        shape: CacheShape,
        num_slots: int,
        provider: Provider,
        row_start: Sequence[Bytes] = (),
        *,
        max_batch: int = 1,
        window: WindowRoom | None = None,
    ) -> None:
        """row_start: the reserved slot's bytes, one array for each buffer; none if rows have no such slot.

        max_batch: rows that run together, which states and what windows see have to have room for; window: how much of
        a row is kept for them, where some of the caches are theirs.
        """
        self.shape = shape
        self.policy = CapacityPolicy()
        self.reserved_slots = 1 if row_start else 0
        self.is_damaged = False
        self._row_start = row_start
        assert any(cache.is_windowed for cache in shape.caches) == (window is not None), "windowed caches are told of"
        self.window = window
        self.before_loss: Callable[[int], None] = lambda row: None
        self._layout = Layout(num_slots)
        self._near = RowWindows(window, num_slots, max_batch)
        self._layouts = [self._near.layout if cache.is_windowed else self._layout for cache in shape.caches]
        self._slot_bytes = shape.slot_bytes
        self._buffers: list[Buffer] = [
            provider.allocate(layout.num_slots * slot_bytes)
            for layout, slot_bytes in zip(self._layouts, self._slot_bytes, strict=True)
        ]
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

    @property
    def longest_run(self) -> int:
        """Most positions that a row has room for in one run, padding included, however long it is."""
        return self.num_slots if self.window is None else self.window.longest

    @property
    def num_bytes(self) -> int:
        """Bytes of all buffers for keys and values."""
        return self.shape.num_bytes(self._layout.num_slots, self._near.layout.num_slots)

    def held_bytes(self, row: int) -> int:
        """Bytes of a row's keys and values."""
        return self.shape.num_bytes(self.valid(row), self._near.num_held(row))

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
        for layout in (self._layout, *self._near.layouts):
            layout.retire(row)
        self._states.retire(row)
        self.free(row)

    def revive(self, row: int, num_tokens: int, room: int) -> None:
        """Run an idle row again, with its first tokens and room for `room`: where it lies, if there is room.

        Raises: CapacityError; nothing has changed then.
        """
        self._require_whole(row, num_tokens)
        held = self.valid(row)
        self._set_valid(row, num_tokens)
        try:
            self._arrange({**self._needs, row: self.slots(max(num_tokens, room))})
        except CapacityError:
            self._set_valid(row, held)
            raise

    def forget(self, row: int) -> None:
        """Let go of what an idle row holds."""
        for layout in (self._layout, *self._near.layouts):
            layout.forget(row)
        self._states.forget(row)

    def can_keep(self, row: int, num_tokens: int) -> bool:
        """Whether a row can go on from so many of its first tokens: not from any where it has states, or windows."""
        if self.has_states and num_tokens != self.valid(row):
            return False
        return self._near.reaches(row, num_tokens)

    def truncate(self, row: int, num_tokens: int) -> None:
        """Keep a row's first tokens only, as many as `can_keep` allows, or none: rewinding costs nothing."""
        if num_tokens > self.valid(row):
            raise CapacityError(f"cannot keep {num_tokens} tokens of a row that holds {self.valid(row)}")
        if num_tokens:
            self._require_whole(row, num_tokens)
        elif self.valid(row):
            self._states.clear(row)
            self._states.drop(row)
        self._set_valid(row, num_tokens)
        self._needs[row] = self.slots(max(num_tokens, 1))

    def extend(self, row: int, num_tokens: int) -> None:
        """Count tokens that the graph has just written."""
        self._set_valid(row, self.valid(row) + num_tokens)

    def assume(self, row: int, num_tokens: int) -> None:
        """Take an empty row's first tokens for written, whatever lies there: for probes and measurements."""
        self._near.begin(row, self._near.first_kept(num_tokens))
        self._set_valid(row, num_tokens)

    def firsts(self, num_tokens: int) -> list[int]:
        """The first token of so many that each buffer needs of a row: of those for windows no more than they see."""
        first = self._near.first_kept(num_tokens)
        return [0 if layout is self._layout else first for layout in self._layouts]

    def base(self, row: int) -> int:
        """How many of a row's first tokens are gone from what is kept for windows."""
        return self._near.base(row)

    def make_room(self, rows: Sequence[int], num_positions: int) -> None:
        """Let go of tokens that windows see no longer, of rows where a run of so many positions finds no room else."""
        for row in rows:
            base = self._near.later_base(row, self.valid(row), num_positions)
            if base is not None:
                self.before_loss(row)
                with self._copying():
                    move = self._near.move_down(row, base)
                    for buffer, slot_bytes, layout in self._sized():
                        if layout is self._near.layout:
                            buffer.arrange([move], slot_bytes)

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
        if num_tokens and not self._near.reaches(row, num_tokens):
            self._states.drop(row)
            num_tokens = self._states.go_back(row)
        self._set_valid(row, num_tokens)
        return num_tokens

    def clear_behind(self, row: int) -> None:
        """Zero what lies in a row's slots behind its valid part."""
        for buffer, slot_bytes, layout in self._sized():
            place, valid = layout.place(row), layout.valid(row)
            buffer.clear((place.start + valid) * slot_bytes, (place.capacity - valid) * slot_bytes)

    def fork(self, row: int, num_tokens: int, room: int = 0) -> int:
        """A new row that begins with a copy of another's first tokens, with room for `room`. Raises: CapacityError."""
        if num_tokens > self.valid(row):
            raise CapacityError(f"cannot fork {num_tokens} tokens of a row that holds {self.valid(row)}")
        self._require_whole(row, num_tokens)
        with self._new_row(max(num_tokens, room)) as new:
            self._copy(row, new, 0, num_tokens)
            self._set_valid(new, num_tokens)
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
        self._set_valid(target, end)

    def export_row(self, row: int, start: int = 0, end: int | None = None) -> Iterator[Bytes]:
        """A copy of a row's tokens from `start` to `end` (default: all) as raw bytes, one array for each buffer.

        Of what is kept for windows: no more than is there.
        """
        end = self.valid(row) if end is None else end
        for buffer, slot_bytes, layout in self._sized():
            first, room = max(start, layout.base(row)), layout.place(row).capacity - self.reserved_slots
            count = max(min(end, layout.base(row) + room) - first, 0)
            yield buffer.read(self._slot(layout, row, first) * slot_bytes, count * slot_bytes)

    def export_states(self, row: int) -> Iterator[Bytes]:
        """A copy of a row's states as raw bytes, one array for each."""
        return self._states.read(row)

    def is_row(self, data: Sequence[Bytes], num_tokens: int) -> bool:
        """Whether arrays are as large as `export_row` and `export_states` give them of a row of so many tokens."""
        count, near = len(self._buffers), set()
        for content, slot_bytes, layout in zip(data, self._slot_bytes, self._layouts, strict=False):
            size = content.size // slot_bytes
            if size * slot_bytes != content.size or (size != num_tokens and layout is self._layout):
                return False
            near |= {size} if layout is self._near.layout else set()
        states = [content.size for content in data[count:]]
        if len(data) < count or states != [*self.shape.state_bytes] or len(near) > 1:
            return False
        base = num_tokens - max(near, default=num_tokens)
        return base >= 0 and (self.window is None or self.window.reaches(num_tokens, base))

    def import_row(self, data: Iterable[Bytes], num_tokens: int, room: int = 0, *, states: Sequence[Bytes] = ()) -> int:
        """A new row of so many tokens from what `export_row` gave, with room for more. Raises: CapacityError.

        states: what `export_states` gave.
        """
        with self._new_row(max(num_tokens, room)) as row:
            self.fill(row, data, num_tokens, states=states)
        return row

    def fill(self, row: int, data: Iterable[Bytes], num_tokens: int, *, states: Sequence[Bytes] = ()) -> None:
        """Overwrite all that a row holds, as `import_row` fills a new one. Raises: CapacityError.

        Of what is kept for windows: arrays of its last tokens, at least those from `firsts` on.
        """
        self.reserve({row: num_tokens})
        for (buffer, slot_bytes, layout), content, least in zip(
            self._sized(), data, self.firsts(num_tokens), strict=True
        ):
            base = num_tokens - content.size // slot_bytes
            first = max(base, least)
            if layout is self._near.layout:
                layout.set_base(row, first)
            buffer.write(self._slot(layout, row, first) * slot_bytes, content[(first - base) * slot_bytes :])
        self._states.write(row, states)
        self._states.drop(row)
        self._set_valid(row, num_tokens)

    def view(self, row: int, num_tokens: int) -> View:
        """One row alone, no longer than it has to be for this many tokens."""
        return self._view([row], num_tokens)

    def rows_view(self, rows: Sequence[int]) -> View:
        """Neighbours in a group, in the order in which they lie."""
        return self._view(rows, None)

    def group_view(self, group: Group, num_tokens: int) -> View:
        """All rows of a group; a row that is alone gets no more capacity than so many further tokens need."""
        if len(group.rows) == 1:
            return self.view(group.rows[0], self.valid(group.rows[0]) + num_tokens)
        return self.rows_view(group.rows)

    def pointers(self, view: View) -> list[tuple[int, int]]:
        """Where a view begins in each cache's buffer, and its capacity there."""
        return [
            (buffer.pointer + view.window_start * slot_bytes, view.window_capacity)
            if layout is self._near.layout
            else (buffer.pointer + view.start * slot_bytes, view.capacity)
            for buffer, slot_bytes, layout in self._sized()
        ]

    def state_pointers(self, view: View) -> list[int]:
        """Where a view begins in each state's buffer."""
        return self._states.pointers(view.first_state)

    def check_integrity(self) -> None:
        """Raises: AssertionError if rows overlap or leave the arena."""
        for layout in (self._layout, *self._near.layouts):
            layout.check_integrity()
            for row in (*self.rows, *self.idle):
                assert layout.valid(row) + layout.base(row) == self._layout.valid(row), "a row ends elsewhere"
        self._states.check_integrity()

    def _view(self, rows: Sequence[int], num_tokens: int | None) -> View:
        """Rows as they lie; no longer than so many tokens of the one row need, if it is one."""
        place, near = self._layout.place(rows[0]), self._near.place(rows[0])
        capacity, near_capacity = place.capacity, near.capacity
        if num_tokens is not None:
            slots, base = self.slots(num_tokens), self.base(rows[0])
            capacity = min(self.policy.capacity(slots), capacity)
            near_capacity = min(self.policy.capacity(slots - base), near_capacity)
        return View(
            start=place.start,
            num_rows=len(rows),
            capacity=capacity,
            first_state=self._states.slot(rows[0]),
            window_start=near.start,
            window_capacity=near_capacity,
        )

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
        self._near.check_room(len(needs))
        groups = self.policy.groups(needs, self.groups, self.num_slots)
        if groups is None:
            raise CapacityError(
                f"the KV cache holds {self.num_slots} tokens, {sum(needs.values())} in {len(needs)} rows do not fit"
                + (", a reserved one in each included" if self.reserved_slots else "")
            )
        if [(group.capacity, group.rows) for group in groups] != [(old.capacity, old.rows) for old in self.groups]:
            moves = self._layout.arrange(groups)
            near_moves = self._near.arrange(self.groups)
            with self._copying():
                for buffer, slot_bytes, layout in self._sized():
                    buffer.arrange(moves if layout is self._layout else near_moves, slot_bytes)
                self._states.arrange(self.groups)
                self._forget_parts()
        self._needs = needs
        self.is_damaged = self.is_damaged and bool(needs)

    def _begin(self, row: int) -> None:
        """Write what a new row begins with; the row is gone if that fails."""
        try:
            if self.reserved_slots:
                for (buffer, slot_bytes, layout), content in zip(self._sized(), self._row_start, strict=True):
                    buffer.write(layout.place(row).start * slot_bytes, content)
            self._states.clear(row)
        except BaseException:
            self.free(row)
            raise
        self._set_valid(row, 0)

    @contextmanager
    def _copying(self) -> Iterator[None]:
        """What rows hold may not be theirs if the copies inside are broken off."""
        was_damaged, self.is_damaged = self.is_damaged, True
        yield
        self.is_damaged = was_damaged

    def _forget_parts(self) -> None:
        """Of an idle row that is only half there, keys and values or states, nothing is of use."""
        parts: list[Layout | RowStates] = [self._layout, *self._near.layouts]
        parts += [self._states] if self.has_states else []
        whole = set.intersection(*({*part.idle} for part in parts))
        for part in parts:
            for row in {*part.idle} - whole:
                part.forget(row)

    def _require_whole(self, row: int, num_tokens: int) -> None:
        """Who cuts a row back further than `can_keep` allows has to go back to other tokens, or begin anew."""
        assert self.can_keep(row, num_tokens), (
            f"{num_tokens} tokens of a row with states or windows, which holds {self.valid(row)}"
        )

    def _set_valid(self, row: int, num_tokens: int) -> None:
        """Count so many tokens as a row's."""
        self._layout.set_valid(row, self.slots(num_tokens))
        self._near.set_valid(row, num_tokens)

    def _sized(self) -> Iterator[tuple[Buffer, int, Layout]]:
        """Each cache's buffer, the bytes of a slot in it, and where rows lie there."""
        return zip(self._buffers, self._slot_bytes, self._layouts, strict=True)

    def _slot(self, layout: Layout, row: int, token: int) -> int:
        """Where a row's token lies."""
        return layout.place(row).start + self.slots(token) - layout.base(row)

    def _copy(self, source: int, target: int, start: int, end: int) -> None:
        """Tokens of one row over those of another, and its states; all that windows see if they began elsewhere."""
        base = self.base(source)
        near_start = max(start, base) if base == self.base(target) else base
        self._near.begin(target, base)
        for buffer, slot_bytes, layout in self._sized():
            first = near_start if layout is self._near.layout else start
            place, target_place = (self._slot(layout, row, first) for row in (source, target))
            buffer.copy(target_place * slot_bytes, place * slot_bytes, (end - first) * slot_bytes)
        self._states.copy(source, target)
        self._states.drop(target)
