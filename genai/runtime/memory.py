"""Memory on the graph's device that outlives runs: the cache arena's buffers, and copies within them.

`HostMemory` is NumPy. `CudaMemory` allocates through ONNX Runtime and copies by running an Identity graph on ranges
bound by pointer, so that no second CUDA binding is needed.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from genai.config import EngineConfig
from genai.runtime.session import Session, import_onnxruntime

Bytes = npt.NDArray[np.uint8]
_ALIGNMENT = 64


class Buffer(Protocol):
    """A block of device memory, addressed in bytes."""

    @property
    def pointer(self) -> int:
        """Where it begins."""
        ...

    def move(self, target: int, source: int, size: int) -> None:
        """Copy `size` bytes within the buffer; the ranges may overlap."""
        ...

    def read(self, offset: int, size: int) -> Bytes:
        """A copy of a range in host memory."""
        ...

    def write(self, offset: int, data: Bytes) -> None:
        """Overwrite a range from host memory."""
        ...


class HostBuffer:
    """Aligned host memory, zero; the operating system commits it when it is first written.

    Zero, because Attention reads a row's whole capacity: what is masked counts 0 times, and 0 × NaN is NaN.
    """

    def __init__(self, size: int) -> None:
        self._owner = np.zeros(size + _ALIGNMENT, np.uint8)
        start = -self._owner.ctypes.data % _ALIGNMENT
        self._bytes = self._owner[start : start + size]
        self.pointer = int(self._bytes.ctypes.data)

    def move(self, target: int, source: int, size: int) -> None:
        """Copy `size` bytes within the buffer; the ranges may overlap (NumPy sees to it)."""
        self._bytes[target : target + size] = self._bytes[source : source + size]

    def read(self, offset: int, size: int) -> Bytes:
        """A copy of a range."""
        return self._bytes[offset : offset + size].copy()

    def write(self, offset: int, data: Bytes) -> None:
        """Overwrite a range."""
        self._bytes[offset : offset + data.size] = data


class CudaBuffer:
    """CUDA memory owned by an OrtValue, zero as on the host."""

    def __init__(self, size: int, copier: CudaCopier) -> None:
        ort = import_onnxruntime()
        self._value = ort.OrtValue.ortvalue_from_numpy(np.zeros(max(size, 1), np.uint8), "cuda", 0)
        self._copier = copier
        self.pointer = int(self._value.data_ptr())

    def move(self, target: int, source: int, size: int) -> None:
        """Copy `size` bytes within the buffer, in pieces that do not overlap their own source."""
        distance = abs(target - source)
        if distance == 0:
            return
        starts = list(range(0, size, distance))
        for start in starts if target < source else reversed(starts):
            piece = min(distance, size - start)
            self._copier.copy(self.pointer + target + start, self.pointer + source + start, piece)

    def read(self, offset: int, size: int) -> Bytes:
        """A copy of a range in host memory."""
        data = np.empty(size, np.uint8)
        self._copier.to_host(data, self.pointer + offset)
        return data

    def write(self, offset: int, data: Bytes) -> None:
        """Overwrite a range from host memory."""
        self._copier.from_host(self.pointer + offset, np.ascontiguousarray(data))


class CudaCopier:
    """Copies between device and host ranges by running `y = Identity(x)` on bound pointers."""

    def __init__(self, config: EngineConfig) -> None:
        from genai.runtime.probe import identity_graph

        self._session = Session(identity_graph(), config)

    def copy(self, target: int, source: int, size: int) -> None:
        """Device to device; the ranges must not overlap."""
        binding = self._session.binding()
        binding.bind_input("x", "uint8", [size], source)
        binding.bind_output("y", "uint8", [size], target)
        self._session.run(binding)

    def to_host(self, target: Bytes, source: int) -> None:
        """Device to host."""
        binding = self._session.binding()
        binding.bind_input("x", "uint8", [target.size], source)
        binding.bind_host_output("y", target)
        self._session.run(binding)

    def from_host(self, target: int, source: Bytes) -> None:
        """Host to device."""
        binding = self._session.binding()
        binding.bind_host_input("x", source)
        binding.bind_output("y", "uint8", [source.size], target)
        self._session.run(binding)


class Memory(Protocol):
    """Where buffers come from."""

    def allocate(self, size: int) -> Buffer:
        """A buffer of this many bytes, all zero."""
        ...


class HostMemory:
    """Host memory."""

    def allocate(self, size: int) -> Buffer:
        """A buffer in host memory."""
        return HostBuffer(size)


class CudaMemory:
    """Memory of CUDA device 0."""

    def __init__(self, config: EngineConfig) -> None:
        self._copier = CudaCopier(config)

    def allocate(self, size: int) -> Buffer:
        """A buffer on the device."""
        return CudaBuffer(size, self._copier)


def memory_for(session: Session, config: EngineConfig) -> Memory:
    """Memory on a session's device."""
    return HostMemory() if session.device == "cpu" else CudaMemory(config)
