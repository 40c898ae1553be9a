"""The one place that talks to ONNX Runtime: loading a graph, binding buffers by pointer, running it.

CPU and CUDA take the same path: small inputs and the logits live in host memory, which ONNX Runtime copies where it
has to; the caches are bound by pointer to memory on the graph's device (`memory.py`).
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Protocol

import numpy as np
import numpy.typing as npt

from genai.config import Device, EngineConfig, disable_runtime_telemetry
from genai.contract import TensorType
from genai.errors import ConfigError, GraphRunError, ModelError, RuntimeUnavailableError
from genai.runtime import cgroups

_log = logging.getLogger(__name__)

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
_ONNX_TYPES = {"float32": 1, "int64": 7, "float16": 10, "bfloat16": 16, "uint8": 2}
_NUMPY_NAMES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(bfloat16)": "bfloat16"}


def import_onnxruntime() -> ModuleType:
    """ONNX Runtime, with telemetry off unless the user chose otherwise.

    Raises: RuntimeUnavailableError that says what to install.
    """
    disable_runtime_telemetry()
    try:
        import onnxruntime
    except ImportError as error:
        raise RuntimeUnavailableError(
            "ONNX Runtime is not installed: pip install 'onnx-kv-runtime[cpu]', or [gpu] for CUDA"
        ) from error
    module: ModuleType = onnxruntime
    return module


def choose_device(wanted: Device) -> str:
    """ "cpu" or "cuda". Raises: ConfigError if CUDA is asked for and this ONNX Runtime does not have it."""
    if wanted == "cpu":
        return "cpu"
    ort = import_onnxruntime()
    has_cuda = _PROVIDERS["cuda"] in ort.get_available_providers()
    if wanted == "cuda" and not has_cuda:
        raise ConfigError(
            "device='cuda': this ONNX Runtime has no CUDA provider; pip uninstall onnxruntime, then "
            "pip install 'onnx-kv-runtime[gpu]'"
        )
    return "cuda" if has_cuda else "cpu"


def default_threads() -> int:
    """Physical cores that this process may use, in a container its share: more threads only wait for each other."""
    import psutil

    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    share = cgroups.processors()
    return max(1, min(available, psutil.cpu_count(logical=False) or available, int(share or available)))


def free_host_memory() -> int:
    """Bytes that this process may still take: of the machine, and of its container."""
    import psutil

    available, left = int(psutil.virtual_memory().available), cgroups.free_memory()
    return available if left is None else min(available, left)


class Session:
    """A graph loaded on a device.

    Raises: ModelError if ONNX Runtime refuses the graph, ConfigError for a missing provider.
    """

    def __init__(self, model: Path | bytes, config: EngineConfig) -> None:
        ort = import_onnxruntime()
        self.device = choose_device(config.device)
        providers = [(_PROVIDERS[self.device], dict(config.provider_options))]
        source = str(model) if isinstance(model, Path) else model
        try:
            self._session = ort.InferenceSession(source, _session_options(ort, config), providers=providers)
        except Exception as error:
            name = model if isinstance(model, Path) else "the graph"
            raise ModelError(f"ONNX Runtime cannot load {name}: {_first_line(error)}") from error
        if _PROVIDERS[self.device] not in self._session.get_providers():
            raise RuntimeUnavailableError(f"ONNX Runtime could not start {_PROVIDERS[self.device]}; is CUDA installed?")
        self.inputs = [_tensor_type(arg) for arg in self._session.get_inputs()]
        self.outputs = [_tensor_type(arg) for arg in self._session.get_outputs()]
        _log.debug("loaded %s on %s with %s", model if isinstance(model, Path) else "graph", self.device, providers)

    def free_memory(self) -> int:
        """Bytes free on the device, as far as can be told: on CUDA through the driver's library, else on the host."""
        if self.device == "cuda" and (free := _free_cuda_bytes()) is not None:
            return free
        return free_host_memory()

    def call(self, feeds: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.generic]]:
        """Run the graph on whole arrays, for graphs that are not decoded with; returns all outputs by name.

        Raises: GraphRunError.
        """
        names = [output.name for output in self.outputs]
        options = import_onnxruntime().RunOptions()
        options.log_severity_level = 4  # what fails is raised
        with _wrapped_errors():
            return dict(zip(names, self._session.run(names, dict(feeds), options), strict=True))

    def binding(self) -> Binding:
        """An empty set of bindings for this graph."""
        return Binding(self._session.io_binding(), self.device)

    def run(self, binding: Binding) -> None:
        """Run the graph on what is bound. Raises: GraphRunError."""
        with _wrapped_errors():
            self._session.run_with_iobinding(binding.handle)


class Binding:
    """Buffers bound to a graph's inputs and outputs; they must outlive it."""

    def __init__(self, handle: _IOBinding, device: str) -> None:
        self.handle = handle
        self._device = device
        self._kept: list[npt.NDArray[np.generic]] = []

    def bind_host_input(self, name: str, array: npt.NDArray[np.generic]) -> None:
        """Bind a contiguous host array; the graph reads whatever it holds when run."""
        self._kept.append(array)
        dtype = _ONNX_TYPES[array.dtype.name]
        self.handle.bind_input(name, "cpu", 0, dtype, array.shape, array.ctypes.data)

    def bind_host_output(self, name: str, array: npt.NDArray[np.generic]) -> None:
        """Bind a contiguous host array that each run overwrites."""
        self._kept.append(array)
        dtype = _ONNX_TYPES[array.dtype.name]
        self.handle.bind_output(name, "cpu", 0, dtype, array.shape, array.ctypes.data)

    def bind_input(self, name: str, dtype: str, shape: Sequence[int], pointer: int) -> None:
        """Bind memory on the graph's device."""
        self.handle.bind_input(name, self._device, 0, _ONNX_TYPES[dtype], shape, pointer)

    def bind_output(self, name: str, dtype: str, shape: Sequence[int], pointer: int) -> None:
        """Bind memory on the graph's device; the same pointer as an input makes TensorScatter write in place."""
        self.handle.bind_output(name, self._device, 0, _ONNX_TYPES[dtype], shape, pointer)


class _IOBinding(Protocol):
    """The part of onnxruntime.IOBinding that is used."""

    def bind_input(  # noqa: PLR0917 (as it is there)
        self, name: str, device_type: str, device_id: int, element_type: int, shape: Sequence[int], buffer_ptr: int
    ) -> None: ...

    def bind_output(  # noqa: PLR0917 (as it is there)
        self, name: str, device_type: str, device_id: int, element_type: int, shape: Sequence[int], buffer_ptr: int
    ) -> None: ...


class _NodeArg(Protocol):
    """The part of onnxruntime.NodeArg that is used."""

    name: str
    type: str
    shape: list[int | str | None]


def _session_options(ort: ModuleType, config: EngineConfig) -> object:
    options = ort.SessionOptions()
    options.intra_op_num_threads = config.num_threads or default_threads()
    options.log_severity_level = _severity()
    for key, value in config.session_options.items():
        options.add_session_config_entry(key, value)
    return options


def _severity() -> int:
    """ONNX Runtime logs to stderr by itself: as loudly as this module's logger is set."""
    level = _log.getEffectiveLevel()
    return 0 if level <= logging.DEBUG else 1 if level <= logging.INFO else 3


def _tensor_type(arg: _NodeArg) -> TensorType:
    dtype = _NUMPY_NAMES.get(arg.type, arg.type.removeprefix("tensor(").removesuffix(")"))
    return TensorType(name=arg.name, dtype=dtype, shape=tuple(arg.shape))


def _free_cuda_bytes() -> int | None:
    """What the CUDA runtime, which ONNX Runtime has loaded by now, says is free on device 0."""
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    for name in ("libcudart.so.13", "libcudart.so.12"):
        try:
            status = ctypes.CDLL(name).cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
        except OSError:
            continue
        if status == 0:
            return free.value
    return None


@contextmanager
def _wrapped_errors() -> Iterator[None]:
    """ONNX Runtime's exceptions have no common base: everything that is not ours becomes a GraphRunError."""
    try:
        yield
    except Exception as error:
        raise GraphRunError(f"ONNX Runtime failed: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:500]
