"""ONNX Runtime itself: the one import of it, its errors as ours, and buffers bound by pointer."""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from genai.config import disable_runtime_telemetry
from genai.errors import GraphRunError, RuntimeUnavailableError
from genai.extras import how_to_install

Array = npt.NDArray[np.generic]
_ONNX_TYPES = {
    "float32": 1,
    "uint8": 2,
    "int8": 3,
    "int32": 6,
    "int64": 7,
    "bool": 9,
    "float16": 10,
    "bfloat16": 16,
    "float8e4m3fn": 17,
    "int4": 22,
}


def import_onnxruntime() -> ModuleType:
    """ONNX Runtime, with telemetry off unless the user chose otherwise.

    Raises: RuntimeUnavailableError that says what to install.
    """
    disable_runtime_telemetry()
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeUnavailableError(
            f"ONNX Runtime cannot be imported ({error}): {how_to_install('cpu')}, or [gpu] for CUDA"
        ) from error
    module: ModuleType = onnxruntime
    return module


@contextmanager
def wrapped_errors() -> Iterator[None]:
    """ONNX Runtime's exceptions have no common base: everything that is not ours becomes a GraphRunError."""
    try:
        yield
    except Exception as error:
        raise GraphRunError(f"ONNX Runtime failed: {first_line(error)}") from error


def first_line(error: Exception) -> str:
    """What an exception says, in one line that is not too long."""
    return str(error).strip().split("\n", 1)[0][:500]


class SessionOptions(Protocol):
    """The part of onnxruntime.SessionOptions that is used."""

    intra_op_num_threads: int
    log_severity_level: int

    def add_session_config_entry(self, key: str, value: str) -> None:
        """Set an option that has no property of its own."""
        ...

    def add_external_initializers_from_files_in_memory(
        self, names: Sequence[str], contents: Sequence[mmap.mmap], lengths: Sequence[int]
    ) -> None:
        """Give the contents of files that graphs name."""
        ...


class IOBinding(Protocol):
    """The part of onnxruntime.IOBinding that is used."""

    def bind_input(  # noqa: PLR0917 (as it is there)
        self, name: str, device_type: str, device_id: int, element_type: int, shape: Sequence[int], buffer_ptr: int
    ) -> None:
        """Read an input from here."""
        ...

    def bind_output(  # noqa: PLR0917 (as it is there)
        self, name: str, device_type: str, device_id: int, element_type: int, shape: Sequence[int], buffer_ptr: int
    ) -> None:
        """Write an output to here."""
        ...


class InferenceSession(Protocol):
    """The part of onnxruntime.InferenceSession that providers use."""

    def io_binding(self) -> IOBinding:
        """Nothing bound yet."""
        ...

    def run_with_iobinding(self, iobinding: IOBinding) -> None:
        """Run on what is bound."""
        ...


class Binding:
    """Buffers bound to a graph's inputs and outputs; they must outlive it. device: where those bound by pointer lie."""

    def __init__(self, handle: IOBinding, device: tuple[str, int] = ("cpu", 0)) -> None:
        self.handle = handle
        self._device = device
        self._outputs: dict[str, Array] = {}
        self._inputs: dict[str, Array] = {}

    def bind_host_input(self, name: str, array: Array) -> None:
        """Bind a contiguous host array; the graph reads what it held when it was bound or last sent."""
        self._inputs[name] = array
        self.handle.bind_input(name, "cpu", 0, _ONNX_TYPES[array.dtype.name], array.shape, array.ctypes.data)

    def bind_host_output(self, name: str, array: Array) -> None:
        """Bind a contiguous host array that each run overwrites; nothing happens if it is bound already."""
        bound = self._outputs.get(name)
        if bound is not None and bound.ctypes.data == array.ctypes.data and bound.shape == array.shape:
            return
        self._outputs[name] = array
        self.handle.bind_output(name, "cpu", 0, _ONNX_TYPES[array.dtype.name], array.shape, array.ctypes.data)

    def release_output(self, name: str) -> None:
        """Hold on to a host array no longer; another one has to be bound before the next run."""
        self._outputs.pop(name, None)

    def bind_input(self, name: str, dtype: str, shape: Sequence[int], pointer: int) -> None:
        """Bind memory on the graph's device."""
        self.handle.bind_input(name, *self._device, _ONNX_TYPES[dtype], shape, pointer)

    def bind_output(self, name: str, dtype: str, shape: Sequence[int], pointer: int) -> None:
        """Bind memory on the graph's device; the same pointer as an input makes TensorScatter write in place."""
        self.handle.bind_output(name, *self._device, _ONNX_TYPES[dtype], shape, pointer)

    def send(self, names: Iterable[str]) -> None:
        """Let the graph see how these host inputs have changed. On the host it reads the arrays themselves."""


class DeviceBinding(Binding):
    """Bindings of a graph on a device with memory of its own.

    ONNX Runtime copies a host input to where the graph reads it, on the device or on the host, when it is bound (its
    IOBinding::BindInput), and never again: what has changed is bound anew.
    """

    def send(self, names: Iterable[str]) -> None:
        """Bind these host inputs anew, which copies them. Raises: GraphRunError."""
        with wrapped_errors():
            for name in names:
                self.bind_host_input(name, self._inputs[name])
