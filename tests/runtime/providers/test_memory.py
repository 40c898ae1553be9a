"""Memory of every device: zero at first, and moved within as NumPy moves; what a device's copies cost."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genai.config import EngineConfig
from genai.runtime.layout import Group, Layout, Move
from genai.runtime.providers import device_memory
from genai.runtime.providers.base import Buffer
from genai.runtime.providers.cpu import CpuProvider
from genai.runtime.providers.cuda import GraphCopier, free_bytes
from genai.runtime.providers.device_memory import DeviceMemory
from tests.device_double import DeviceDouble


def test_new_memory_is_zero() -> None:
    """Whatever the allocator hands out again: a NaN beyond a row's valid length would reach its attention."""
    for size in (1000, 100_000):
        dirty = np.full(size + 64, 255, np.uint8)
        del dirty
        for provider in (CpuProvider, DeviceDouble):
            assert not provider(EngineConfig()).allocate(size).read(0, size).any()


def filled(buffer: Buffer, size: int) -> np.ndarray:
    content = np.random.default_rng(0).integers(0, 256, size, dtype=np.uint8)
    buffer.write(0, content)
    return content


@st.composite
def arrangements(draw: st.DrawFn) -> tuple[list[Move], int]:
    """What a layout of 64 slots asks for when its rows grow, shrink, go and swap; and a slot's bytes."""
    layout = Layout(64)
    layout.arrange([Group(capacity=draw(st.integers(1, 12)), rows=tuple(range(draw(st.integers(1, 5)))))])
    for row in layout.groups[0].rows:
        layout.set_valid(row, draw(st.integers(0, layout.place(row).capacity)))
    rows = draw(st.lists(st.sampled_from(layout.groups[0].rows), unique=True))
    least = max((layout.valid(row) for row in rows), default=1)
    capacity = draw(st.integers(max(least, 1), 12))
    return layout.arrange([Group(capacity=capacity, rows=tuple(rows))]), draw(st.sampled_from([1, 3, 8, 16]))


@given(arrangements(), st.sampled_from([0, 2, 10**6]))
@settings(deadline=None)  # the first example loads graphs
def test_rows_move_on_a_device_as_on_the_host(arrangement: tuple[list[Move], int], gap: int) -> None:
    moves, slot_bytes = arrangement
    size = 64 * slot_bytes
    host, double = CpuProvider(EngineConfig()).allocate(size), DeviceDouble(EngineConfig()).allocate(size)
    graphs = DeviceMemory(GraphCopier(("CPUExecutionProvider", {}), ("cpu", 0))).allocate(size)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(device_memory, "_WORTHWHILE", gap * slot_bytes)
        for buffer in (host, double, graphs):
            filled(buffer, size)
            buffer.arrange(moves, slot_bytes)
    moved = [(move.target, move.length) for move in moves if move.target is not None]
    for buffer in (double, graphs):
        for target, length in moved:
            start, count = target * slot_bytes, length * slot_bytes
            np.testing.assert_array_equal(buffer.read(start, count), host.read(start, count))
        untouched = np.ones(size, bool)
        for target, length in moved:
            untouched[target * slot_bytes : (target + length) * slot_bytes] = False
        np.testing.assert_array_equal(buffer.read(0, size)[untouched], filled(host, size)[untouched])
        host.arrange(moves, slot_bytes)


def test_an_arrangement_takes_two_copies_however_many_rows_move() -> None:
    device = DeviceDouble(EngineConfig())
    buffer = device.allocate(3000)
    device.memory.num_copies = 0
    buffer.arrange([Move(row, row * 20, row * 24, 20) for row in range(99, 0, -1)], 1)
    assert device.memory.num_copies == 2
    buffer.arrange([], 1)
    assert device.memory.num_copies == 2


def test_buffers_of_one_device_share_its_scratch() -> None:
    device = DeviceDouble(EngineConfig())
    for _ in range(5):
        device.allocate(100)
    assert len(device.memory.blocks) == 1 + 5


def test_graphs_copy_between_host_and_device() -> None:
    """The graphs that copy on CUDA, over host memory: their addresses and sizes are right."""
    buffer = DeviceMemory(GraphCopier(("CPUExecutionProvider", {}), ("cpu", 0))).allocate(3 * 2**20)
    assert not buffer.read(0, 3 * 2**20).any()
    expected = filled(buffer, 1000)
    buffer.copy(600, 100, 400)
    expected[600:1000] = expected[100:500]
    np.testing.assert_array_equal(buffer.read(0, 1000), expected)
    np.testing.assert_array_equal(buffer.read(17, 5), expected[17:22])
    assert buffer.read(17, 0).size == 0


class CudaRuntime:
    """The functions that are used; memory is free by device."""

    def __init__(self, free: dict[int, int]) -> None:
        self.free, self.current = free, 0

    def cudaGetDevice(self, device: object) -> int:
        device._obj.value = self.current  # type: ignore[attr-defined]
        return 0

    def cudaSetDevice(self, device: int | ctypes.c_int) -> int:
        number = device.value if isinstance(device, ctypes.c_int) else device
        if number not in self.free:
            return 101
        self.current = number
        return 0

    def cudaMemGetInfo(self, free: object, total: object) -> int:
        free._obj.value = self.free[self.current]  # type: ignore[attr-defined]
        return 0 if self.free[self.current] else 2


def test_the_free_memory_is_that_of_the_device_that_was_asked_for() -> None:
    runtime = CudaRuntime({0: 100, 1: 200, 2: 0})
    assert [free_bytes(runtime, device) for device in (0, 1, 2, 3)] == [100, 200, None, None]  # type: ignore[arg-type]
    assert runtime.current == 0, "the current device is the caller's"
