"""A device with memory of its own, on NumPy: what CUDA differs in from the host, without CUDA.

Addresses mean nothing outside of it; a host input is copied when it is bound, and what the array holds later is not
seen; new memory holds NaNs; whatever names another device than the one that was asked for fails. The graphs run on ONNX
Runtime's CPU provider.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import numpy as np
import pytest

from genai import config as config_module
from genai.config import EngineConfig
from genai.runtime.ort import Binding, DeviceBinding, InferenceSession, import_onnxruntime
from genai.runtime.providers import PROVIDERS
from genai.runtime.providers.base import Bytes, Provider, device_id
from genai.runtime.providers.device_memory import Block, DeviceBuffer, DeviceMemory

_FIRST_ADDRESS, _BLOCK_BITS = 1 << 60, 40
"""Where blocks begin, and the bits of an address within one."""
_SIZES = {1: 4, 7: 8, 10: 2, 16: 2, 2: 1}


class Memory:
    """The device's memory, and a count of the copies that were made in it."""

    def __init__(self) -> None:
        self.blocks: dict[int, Bytes] = {}
        self.num_copies = 0

    def allocate(self, size: int) -> Block:
        start = _FIRST_ADDRESS + (len(self.blocks) << _BLOCK_BITS)
        self.blocks[start] = np.full(size, 255, np.uint8)
        return Block(pointer=start, size=size, owner=None)

    def copy(self, target: int, source: int, size: int) -> None:
        self.num_copies += 1
        assert abs(target - source) >= size, "the ranges overlap: what a device does then is not defined"
        self.range(target, size)[:] = self.range(source, size)

    def gather(self, target: int, source: Block, slots: np.ndarray, slot_bytes: int) -> None:
        self.num_copies += 1
        block = self.range(source.pointer, source.size // slot_bytes * slot_bytes).reshape(-1, slot_bytes)
        self.range(target, slots.size * slot_bytes)[:] = block[slots].reshape(-1)

    def to_host(self, target: Bytes, source: int) -> None:
        target[:] = self.range(source, target.size)

    def from_host(self, target: int, source: Bytes) -> None:
        self.range(target, source.size)[:] = source

    def range(self, address: int, size: int) -> Bytes:
        start = address >> _BLOCK_BITS << _BLOCK_BITS
        assert start in self.blocks, f"{address} is no address on the device"
        offset = address - start
        assert 0 < size <= self.blocks[start].size - offset, "a range leaves its block"
        return self.blocks[start][offset : offset + size]


class DoubleIOBinding(import_onnxruntime().IOBinding):  # type: ignore[misc]
    """ONNX Runtime's, as it is on a device."""

    def __init__(self, session: InferenceSession, memory: Memory, device: tuple[str, int]) -> None:
        super().__init__(session)
        self._memory = memory
        self._device = device
        self._copies: dict[str, Bytes] = {}

    def bind_input(  # noqa: PLR0917
        self, name: str, device_type: str, device_id: int, element_type: int, shape: Sequence[int], buffer_ptr: int
    ) -> None:
        size = _size(element_type, shape)
        if device_type == "cpu":
            self._copies[name] = np.frombuffer(ctypes.string_at(buffer_ptr, size), np.uint8)
            address = self._copies[name].ctypes.data
        else:
            address = self._address((device_type, device_id), buffer_ptr, size)
        super().bind_input(name, "cpu", 0, element_type, shape, address)

    def bind_output(  # noqa: PLR0917
        self, name: str, device_type: str, device_id: int, element_type: int, shape: Sequence[int], buffer_ptr: int
    ) -> None:
        address = buffer_ptr
        if device_type != "cpu":
            address = self._address((device_type, device_id), buffer_ptr, _size(element_type, shape))
        super().bind_output(name, "cpu", 0, element_type, shape, address)

    def _address(self, device: tuple[str, int], pointer: int, size: int) -> int:
        assert device == self._device, f"memory of {device} for a graph on {self._device}"
        return int(self._memory.range(pointer, size).ctypes.data)


def _size(element_type: int, shape: Sequence[int]) -> int:
    return _SIZES[element_type] * int(np.prod(shape))


class DeviceDouble(Provider):
    """The provider. free: what it says is free on it."""

    name = "double"
    execution_provider = "CPUExecutionProvider"
    kind = "GPU"
    activations = "float32"
    auto_precision = "f32"
    has_query_norms = False
    has_small_map = True
    free: ClassVar[int | None] = 10**9

    def __init__(self, config: EngineConfig) -> None:
        self.memory = Memory()
        self._device = ("double", device_id(config))
        self._allocator = DeviceMemory(self.memory)
        self.options = dict(config.provider_options)

    def allocate(self, size: int) -> DeviceBuffer:
        return self._allocator.allocate(size)

    def binding(self, session: InferenceSession) -> Binding:
        return DeviceBinding(DoubleIOBinding(session, self.memory, self._device), self._device)

    def free_memory(self) -> int | None:
        return self.free


@contextmanager
def registered() -> Iterator[None]:
    """`device="double"` means something here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(PROVIDERS, DeviceDouble.name, DeviceDouble)
        patch.setattr(config_module, "DEVICES", (*config_module.DEVICES, DeviceDouble.name))
        yield
