"""The allocator and the cache: rows never overlap, and what was valid survives every operation."""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Callable, Iterator
from types import FrameType

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from genai.config import EngineConfig
from genai.contract import uniform_caches
from genai.errors import CapacityError
from genai.runtime.cache import KVCache
from genai.runtime.cache_shape import CacheShape
from genai.runtime.capacity import CapacityPolicy, StepCost
from genai.runtime.layout import Group, Layout, Move
from genai.runtime.providers.base import Provider
from genai.runtime.providers.cpu import CpuProvider
from tests.device_double import DeviceDouble
from tests.fakes import ROW_START, SHAPE, WINDOW, WINDOWED, read_tokens, small_cache, write_tokens


class CacheMachine(RuleBasedStateMachine):
    """Every operation in any order, against a dictionary of lists."""

    provider: type[Provider] = CpuProvider

    def __init__(self) -> None:
        super().__init__()
        self.cache = self.made()
        self.model: dict[int, list[int]] = {}
        self.idle: dict[int, list[int]] = {}
        self.asked: dict[int, int] = {}
        self.next_token = 1

    rows = st.integers(0, 30)

    def made(self) -> KVCache:
        return KVCache(SHAPE, 640, self.provider(EngineConfig()))

    def _length(self, row: int, tokens: list[int], keep: float) -> int:
        """A length to cut a row back to: one that is possible, at most so much of it."""
        length = int(keep * len(tokens))
        return length if self.cache.can_keep(row, length) else len(tokens)

    def _row(self, choice: int) -> int:
        return sorted(self.model)[choice % len(self.model)]

    def _fails_cleanly(self, action, result=None) -> bool:
        try:
            action()
        except CapacityError:
            return True
        return False

    @rule(room=st.integers(1, 300))
    def allocate(self, room: int) -> None:
        try:
            row = self.cache.allocate(room)
        except CapacityError:
            assert max([room, *self.asked.values()]) * (len(self.model) + 1) > 640
            return
        assert self.cache.capacity(row) >= room
        self.model[row] = []
        self.asked[row] = room

    @precondition(lambda self: self.model)
    @rule(choice=rows, count=st.integers(1, 120))
    def append(self, choice: int, count: int) -> None:
        row = self._row(choice)
        if self._fails_cleanly(lambda: self.cache.reserve({row: len(self.model[row]) + count})):
            return
        self.asked[row] = max(self.asked[row], len(self.model[row]) + count)
        tokens = list(range(self.next_token, self.next_token + count))
        self.next_token += count
        for start in range(0, count, self.cache.longest_run):
            piece = tokens[start : start + self.cache.longest_run]
            self.cache.make_room([row], len(piece))
            write_tokens(self.cache, row, self.cache.valid(row), piece)
            self.cache.extend(row, len(piece))
        self.model[row] += tokens

    @precondition(lambda self: self.model)
    @rule(choice=rows)
    def free(self, choice: int) -> None:
        row = self._row(choice)
        self.cache.free(row)
        del self.model[row], self.asked[row]

    @precondition(lambda self: self.model)
    @rule(choice=rows)
    def retire(self, choice: int) -> None:
        row = self._row(choice)
        self.cache.retire(row)
        self.idle[row] = self.model.pop(row)
        del self.asked[row]

    @precondition(lambda self: self.cache.idle)
    @rule(choice=rows, keep=st.floats(0, 1), room=st.integers(0, 200))
    def revive(self, choice: int, keep: float, room: int) -> None:
        row = self.cache.idle[choice % len(self.cache.idle)]
        length = self._length(row, self.idle[row], keep)
        if self._fails_cleanly(lambda: self.cache.revive(row, length, room)):
            assert self.cache.valid(row) == len(self.idle[row])
            return
        self.model[row] = self.idle[row][:length]
        self.asked[row] = max(length, room)
        assert self.cache.capacity(row) >= room

    @precondition(lambda self: self.cache.idle)
    @rule(choice=rows)
    def forget(self, choice: int) -> None:
        row = self.cache.idle[choice % len(self.cache.idle)]
        self.cache.forget(row)
        assert row not in self.cache.idle

    @precondition(lambda self: self.model)
    @rule(choice=rows, keep=st.floats(0, 1))
    def truncate(self, choice: int, keep: float) -> None:
        row = self._row(choice)
        length = self._length(row, self.model[row], keep)
        self.cache.truncate(row, length)
        del self.model[row][length:]
        self.asked[row] = length

    @precondition(lambda self: self.model)
    @rule(choice=rows, keep=st.floats(0, 1))
    def fork(self, choice: int, keep: float) -> None:
        row = self._row(choice)
        length = self._length(row, self.model[row], keep)
        try:
            new = self.cache.fork(row, length)
        except CapacityError:
            return
        self.model[new] = self.model[row][:length]
        self.asked[new] = length

    @precondition(lambda self: self.model)
    @rule(choice=rows, other=rows)
    def copy(self, choice: int, other: int) -> None:
        source, target = self._row(choice), self._row(other)
        pairs = zip(self.model[source], self.model[target], strict=False)
        shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        end = len(self.model[source])
        if source == target or self._fails_cleanly(lambda: self.cache.copy(source, target, shared, end)):
            return
        self.model[target] = list(self.model[source])
        self.asked[target] = max(self.asked[target], end)

    @precondition(lambda self: self.model)
    @rule(choice=rows)
    def empty(self, choice: int) -> None:
        row = self._row(choice)
        self.cache.truncate(row, 0)
        self.model[row], self.asked[row] = [], 0

    @precondition(lambda self: self.model)
    @rule(choice=rows)
    def export_and_import(self, choice: int) -> None:
        row = self._row(choice)
        try:
            new = self.cache.import_row(self.cache.export_row(row), len(self.model[row]))
        except CapacityError:
            return
        self.model[new] = list(self.model[row])
        self.asked[new] = len(self.model[row])

    @invariant()
    def every_row_holds_its_tokens(self) -> None:
        self.cache.check_integrity()
        assert set(self.cache.rows) == set(self.model)
        for row, tokens in self.model.items():
            assert read_tokens(self.cache, row) == tokens
        for row in self.cache.idle:
            assert read_tokens(self.cache, row) == self.idle[row]


TestCacheMachine = CacheMachine.TestCase
TestCacheMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


class DeviceCacheMachine(CacheMachine):
    """The same on a device's memory."""

    provider = DeviceDouble


TestDeviceCacheMachine = DeviceCacheMachine.TestCase
TestDeviceCacheMachine.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)


class WindowCacheMachine(CacheMachine):
    """The same where one of several caches keeps a window alone, behind a reserved slot, for four rows at most."""

    def made(self) -> KVCache:
        cpu = self.provider(EngineConfig())
        return KVCache(WINDOWED, 640, cpu, ROW_START, max_batch=2, window=WINDOW)

    @rule(room=st.integers(1, 300))
    def allocate(self, room: int) -> None:
        if len(self.model) == 4:
            with pytest.raises(CapacityError, match="what windows see of 4 rows, not 5"):
                self.cache.allocate(room)
        else:
            super().allocate(room)

    @invariant()
    def windows_take_no_more_than_their_room(self) -> None:
        for row in self.model:
            near = self.cache.shape.window_bytes_per_token * WINDOW.slots
            whole = self.cache.shape.bytes_per_token - self.cache.shape.window_bytes_per_token
            assert self.cache.held_bytes(row) <= self.cache.valid(row) * whole + near


TestWindowCacheMachine = WindowCacheMachine.TestCase
TestWindowCacheMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class DeviceWindowCacheMachine(WindowCacheMachine):
    """The same on a device's memory, where ranges that overlap are copied by way of another."""

    provider = DeviceDouble


TestDeviceWindowCacheMachine = DeviceWindowCacheMachine.TestCase
TestDeviceWindowCacheMachine.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)


class LayoutMachine(RuleBasedStateMachine):
    """Arbitrary arrangements into several groups: the moves carry every valid slot to its new place."""

    def __init__(self) -> None:
        super().__init__()
        self.layout = Layout(64)
        self.memory = [-1] * 64
        self.model: dict[int, list[int]] = {}
        self.next_row = 0

    @rule(data=st.data())
    def arrange(self, data: st.DataObject) -> None:
        kept = data.draw(st.lists(st.sampled_from(sorted(self.model)), unique=True)) if self.model else []
        new = list(range(self.next_row, self.next_row + data.draw(st.integers(0, 2))))
        rows = data.draw(st.permutations(kept + new))
        cut = data.draw(st.integers(0, len(rows)))
        groups = []
        for part in (rows[:cut], rows[cut:]):
            least = max([1, *(len(self.model.get(row, [])) for row in part)])
            groups.append(Group(capacity=data.draw(st.integers(least, least + 6)), rows=tuple(part)))
        before = self.layout.groups
        try:
            moves = self.layout.arrange(groups)
        except CapacityError:
            assert self.layout.groups == before
            return
        self.next_row += len(new)
        stash: dict[int, list[int]] = {}
        for move in moves:
            if move.target is None:
                stash[move.row] = self.memory[move.source : move.source + move.length]
            else:
                content = (
                    stash[move.row] if move.source is None else self.memory[move.source : move.source + move.length]
                )
                self.memory[move.target : move.target + move.length] = content
        self.model = {row: self.model.get(row, []) for row in rows}

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def fill(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(sorted(self.model)))
        place = self.layout.place(row)
        length = data.draw(st.integers(0, place.capacity))
        content = [row * 1000 + i for i in range(length)]
        self.memory[place.start : place.start + length] = content
        self.layout.set_valid(row, length)
        self.model[row] = content

    @invariant()
    def contents_are_where_the_layout_says(self) -> None:
        self.layout.check_integrity()
        for row, content in self.model.items():
            start = self.layout.place(row).start
            assert self.memory[start : start + len(content)] == content


TestLayoutMachine = LayoutMachine.TestCase
TestLayoutMachine.settings = settings(max_examples=100, stateful_step_count=20, deadline=None)


def test_growing_a_single_row_copies_nothing() -> None:
    layout = Layout(1024)
    layout.arrange([Group(capacity=64, rows=(0,))])
    layout.set_valid(0, 64)
    assert layout.arrange([Group(capacity=128, rows=(0,))]) == []


def test_freeing_the_last_row_copies_nothing() -> None:
    layout = Layout(1024)
    layout.arrange([Group(capacity=64, rows=(0, 1, 2))])
    for row in range(3):
        layout.set_valid(row, 10)
    assert layout.arrange([Group(capacity=64, rows=(0, 1))]) == []


def test_swapped_rows_go_through_the_stash() -> None:
    layout = Layout(128)
    layout.arrange([Group(capacity=64, rows=(0, 1))])
    layout.set_valid(0, 64)
    layout.set_valid(1, 64)
    moves = layout.arrange([Group(capacity=64, rows=(1, 0))])
    assert [(move.source, move.target) for move in moves] == [(64, None), (0, 64), (None, 0)]


def filled(cache: KVCache, num_tokens: int) -> int:
    row = cache.allocate(num_tokens + 1)
    write_tokens(cache, row, 0, list(range(num_tokens)))
    cache.extend(row, num_tokens)
    return row


@pytest.mark.parametrize(("num_others", "grows_by"), [(0, 100), (2, 1)])
def test_a_row_is_taken_up_where_it_lies(num_others: int, grows_by: int) -> None:
    """A chat: turn after turn, each longer than the last, without a copy; also as the last row of a group."""
    device = DeviceDouble(EngineConfig())
    cache = KVCache(SHAPE, 4096, device)
    others = [filled(cache, 200) for _ in range(num_others)]
    row = filled(cache, 200)
    before = device.memory.num_copies
    for turn in range(1, 5):
        cache.retire(row)
        assert cache.idle == (row,)
        assert cache.rows == tuple(others)
        cache.revive(row, 200 - turn, 200 + grows_by * turn)
        assert read_tokens(cache, row) == list(range(200 - turn))
        write_tokens(cache, row, 200 - turn, list(range(200 - turn, 200)))
        cache.extend(row, turn)
    assert device.memory.num_copies == before


def test_idle_rows_are_free_room_and_the_newest_are_spared() -> None:
    cache = small_cache(1024)
    rows = [filled(cache, 230) for _ in range(4)]
    for row in reversed(rows):
        cache.retire(row)
    assert cache.idle == tuple(reversed(rows))
    assert cache.would_hold([1024])
    last = filled(cache, 100)
    assert set(cache.idle) > set(rows[:2])
    assert len(cache.idle) == 3
    cache.reserve({last: 1024})
    assert cache.idle == ()


def slots_moved(cache: KVCache, seed: int, *, keeps_idle: bool) -> int:
    """Rows come, grow and go by chance: how many slots are copied for it."""
    rng = random.Random(seed)
    arrange, num_moved = cache._layout.arrange, 0

    def counted(groups: list[Group]) -> list[Move]:
        nonlocal num_moved
        moves = arrange(groups)
        num_moved += sum(move.length for move in moves)
        return moves

    cache._layout.arrange = counted  # type: ignore[method-assign, assignment]
    held: dict[int, int] = {}
    for _ in range(400):
        action, length = rng.random(), rng.randint(1, 80)
        if not held or (action < 0.35 and len(held) < 6):
            if cache.would_hold([*held.values(), length + 1]):
                held[filled(cache, length)] = length + 1
            continue
        row = rng.choice(sorted(held))
        if action < 0.7:
            grown = {**held, row: held[row] + length // 4}
            if cache.would_hold([*grown.values()]):
                cache.reserve({row: grown[row]})
                held = grown
        else:
            (cache.retire if keeps_idle else cache.free)(row)
            del held[row]
    return num_moved


@pytest.mark.parametrize("num_slots", [600, 1500, 3000])
def test_idle_rows_cost_those_that_run_no_copies(num_slots: int) -> None:
    """Where newcomers are put differs, so that one history costs a little more and another a little less."""
    with_idle, without = (
        sum(slots_moved(small_cache(num_slots), seed, keeps_idle=keeps_idle) for seed in range(12))
        for keeps_idle in (True, False)
    )
    assert 0 < with_idle <= 1.03 * without


def test_a_refused_request_changes_nothing() -> None:
    cache = small_cache(128)
    row = cache.allocate(64)
    write_tokens(cache, row, 0, [1, 2, 3])
    cache.extend(row, 3)
    with pytest.raises(CapacityError, match="holds 128 tokens"):
        cache.allocate(100)
    with pytest.raises(CapacityError, match="holds 128 tokens"):
        cache.reserve({row: 129})
    assert cache.rows == (row,)
    assert read_tokens(cache, row) == [1, 2, 3]


def test_a_view_is_no_longer_than_it_has_to_be() -> None:
    cache = small_cache(4096)
    row = cache.allocate(2048)
    assert cache.view(row, 10).capacity == 16
    assert cache.group_view(cache.groups[0], 1).capacity == 16
    other = cache.allocate(1900)
    assert cache.view(other, 10).capacity == 16
    assert cache.group_view(cache.groups[0], 1).capacity == cache.capacity(row) >= 2048


def test_truncating_beyond_the_end_is_refused() -> None:
    cache = small_cache(64)
    row = cache.allocate(1)
    with pytest.raises(CapacityError, match="holds 0"):
        cache.truncate(row, 1)
    with pytest.raises(CapacityError, match="holds 0"):
        cache.fork(row, 1)


@pytest.mark.parametrize("num_rows", [8, 64])
def test_growing_many_rows_at_once_takes_a_handful_of_copies_on_a_device(num_rows: int) -> None:
    """Two for each buffer, by way of the scratch; not one for each row, nor for each distance that it moves by."""
    device = DeviceDouble(EngineConfig())
    cache = KVCache(SHAPE, 64 * 1200, device)
    one_group = StepCost(weights=1.0, row=0.0, slot=0.0)
    cache.policy = CapacityPolicy(cost=one_group)  # all rows grow when one does
    rows = [cache.allocate(1000) for _ in range(num_rows)]
    for row in rows:
        tokens = list(range(row, row + 1000))
        write_tokens(cache, row, 0, tokens)
        cache.extend(row, 1000)
    before = device.memory.num_copies
    cache.reserve({rows[-1]: 1025})
    assert cache.capacity(rows[0]) >= 1025
    assert device.memory.num_copies - before == 2 * len(SHAPE.caches)
    for row in rows:
        assert read_tokens(cache, row) == list(range(row, row + 1000))


@pytest.mark.parametrize("provider", [CpuProvider, DeviceDouble])
def test_rows_survive_in_sixteen_bits(provider: type[Provider]) -> None:
    cache = KVCache(CacheShape(caches=uniform_caches(2, 6), dtype="bfloat16"), 256, provider(EngineConfig()))
    assert cache.shape.bytes_per_token == 4 * 6 * 2
    rng = np.random.default_rng(0)
    data = [rng.integers(0, 256, 10 * 12, dtype=np.uint8) for _ in range(4)]
    row = cache.import_row(data, 10)
    cache.reserve({row: 200})
    for got, want in zip(cache.export_row(row), data, strict=True):
        np.testing.assert_array_equal(got, want)


def test_rows_that_grow_together_are_laid_out_once() -> None:
    """Otherwise a boundary that many rows reach at once costs one plan, and one copy of the arena, for each."""
    cache = small_cache(64 * 64)
    rows = [cache.allocate(16) for _ in range(64)]
    before = cache.groups
    arranged = []
    arrange = cache._layout.arrange
    cache._layout.arrange = lambda groups: arranged.append(groups) or arrange(groups)  # type: ignore[method-assign]
    cache.reserve(dict.fromkeys(rows, 17))
    assert len(arranged) == 1
    assert cache.groups != before
    with pytest.raises(CapacityError):
        cache.reserve({rows[0]: 18, rows[1]: 64 * 64})
    assert {cache.capacity(row) for row in rows} == {32}


def lines_run_to_regroup(num_rows: int, order: int) -> int:
    """Lines of `runtime` that run when rows of one length all grow, those of the layout turned round or not."""
    layout = Layout(num_rows * 64)
    layout.arrange([Group(capacity=32, rows=tuple(range(num_rows)))])
    for row in range(num_rows):
        layout.set_valid(row, 32)
    count = 0

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., object]:
        nonlocal count
        count += event == "line" and "runtime" in frame.f_code.co_filename
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        CapacityPolicy().groups(dict.fromkeys(range(num_rows), 33), layout.groups, num_rows * 64)
        layout.arrange([Group(capacity=48, rows=tuple(range(num_rows))[::order])])
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("order", [1, -1])
def test_planning_takes_time_in_proportion_to_the_rows(order: int) -> None:
    few, many = (lines_run_to_regroup(num_rows, order) for num_rows in (32, 256))
    assert few > 32, "something was counted"
    assert many < 1.25 * 8 * few


def test_a_row_that_cannot_be_filled_is_not_there() -> None:
    cache = small_cache(64)
    row = cache.allocate(20)
    write_tokens(cache, row, 0, range(9))
    cache.extend(row, 9)

    def failing() -> Iterator[np.ndarray]:
        yield from list(cache.export_row(row))[:1]
        raise MemoryError

    def short(target: int, source: int, size: int) -> None:
        raise MemoryError

    with pytest.raises(MemoryError):
        cache.import_row(failing(), 9)
    assert cache.rows == (row,)
    cache._buffers[1].copy = short  # type: ignore[method-assign]
    with pytest.raises(MemoryError):
        cache.fork(row, 9)
    assert cache.rows == (row,)
    assert read_tokens(cache, row) == list(range(9))
