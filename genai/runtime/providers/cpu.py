"""The CPU: graphs read and write host memory where it lies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from genai.config import EngineConfig
from genai.errors import ConfigError
from genai.runtime.host import free_host_memory, processor
from genai.runtime.layout import Move
from genai.runtime.ort import Binding, InferenceSession
from genai.runtime.providers.base import Bytes, Provider, device_id

_ALIGNMENT = 64


class HostBuffer:
    """Aligned host memory, zero; the operating system commits it when it is first written."""

    def __init__(self, size: int) -> None:
        self._owner = np.zeros(size + _ALIGNMENT, np.uint8)
        start = -self._owner.ctypes.data % _ALIGNMENT
        self._bytes = self._owner[start : start + size]
        self.pointer = int(self._bytes.ctypes.data)

    def clear(self, offset: int, size: int) -> None:
        """Zero a range."""
        self._bytes[offset : offset + size] = 0

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy `size` bytes within the buffer; the ranges may overlap (NumPy sees to it)."""
        self._bytes[target : target + size] = self._bytes[source : source + size]

    def arrange(self, moves: Sequence[Move], slot_bytes: int) -> None:
        """Move rows one after the other."""
        stash: dict[int, Bytes] = {}
        for move in moves:
            size = move.length * slot_bytes
            if move.target is None and move.source is not None:
                stash[move.row] = self.read(move.source * slot_bytes, size)
            elif move.source is None and move.target is not None:
                self.write(move.target * slot_bytes, stash.pop(move.row))
            elif move.source is not None and move.target is not None:
                self.copy(move.target * slot_bytes, move.source * slot_bytes, size)

    def read(self, offset: int, size: int) -> Bytes:
        """A copy of a range."""
        return self._bytes[offset : offset + size].copy()

    def write(self, offset: int, data: Bytes) -> None:
        """Overwrite a range."""
        self._bytes[offset : offset + data.size] = data


class CpuProvider(Provider):
    """Host arrays are bound as they are, and nothing is ever sent."""

    name = "cpu"
    execution_provider = "CPUExecutionProvider"
    kind = "CPU"
    activations = "float32"
    auto_precision = "auto"
    has_query_norms = False
    has_small_map = True

    def __init__(self, config: EngineConfig) -> None:
        if (wanted := device_id(config)) != 0:
            raise ConfigError(f"provider_options device_id={wanted}: the CPU is one device; leave it out")
        self.options = dict(config.provider_options)

    def allocate(self, size: int) -> HostBuffer:
        """A buffer in host memory."""
        return HostBuffer(size)

    def binding(self, session: InferenceSession) -> Binding:
        """An empty set of bindings."""
        return Binding(session.io_binding())

    def free_memory(self) -> int:
        """Bytes that this process may still take."""
        return free_host_memory()

    def processor(self) -> str | None:
        """Its name and what it can do; None where the system does not tell."""
        return processor()

    def advice(self, cache_dtype: str) -> str | None:
        """Its kernels are for float32."""
        return None if cache_dtype == self.activations else "build the model in f32, int8 or int4 instead"
