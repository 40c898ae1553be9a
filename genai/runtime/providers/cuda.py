"""CUDA through ONNX Runtime alone: no second library allocates, copies or binds.

Nothing here has run on a device yet. What does not need one is tested on a double (`tests/device_double.py`), and the
tests marked `gpu` ask the same of a device.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator, Mapping
from functools import cached_property

import numpy as np

from genai import contract
from genai.config import EngineConfig
from genai.extras import how_to_install
from genai.runtime.ort import Binding, DeviceBinding, InferenceSession, import_onnxruntime, wrapped_errors
from genai.runtime.providers.base import Bytes, Provider, device_id
from genai.runtime.providers.device_memory import Block, DeviceBuffer, DeviceMemory, IntArray


class CudaProvider(Provider):
    """One CUDA device, the one that `provider_options` names by `device_id`."""

    name = "cuda"
    execution_provider = "CUDAExecutionProvider"
    kind = "GPU"
    activations = "float16"
    auto_precision = "f16"
    has_query_norms = True
    has_small_map = False

    def __init__(self, config: EngineConfig) -> None:
        self._device = ("cuda", device_id(config))
        self.options = {**config.provider_options, "device_id": str(self._device[1])}

    @classmethod
    def missing(cls) -> str | None:
        """Only onnxruntime-gpu has it."""
        if cls.execution_provider in import_onnxruntime().get_available_providers():
            return None
        return (
            "device='cuda': this ONNX Runtime has no CUDA provider; pip uninstall onnxruntime, then "
            + how_to_install("gpu")
        )

    def allocate(self, size: int) -> DeviceBuffer:
        """A buffer on the device."""
        return self._memory.allocate(size)

    @cached_property
    def _memory(self) -> DeviceMemory:
        return DeviceMemory(GraphCopier((self.execution_provider, self.options), self._device))

    def binding(self, session: InferenceSession) -> Binding:
        """An empty set of bindings."""
        return DeviceBinding(session.io_binding(), self._device)

    def free_memory(self) -> int | None:
        """What the CUDA runtime, which ONNX Runtime has loaded by now, says is free on this device."""
        for name in ("libcudart.so.13", "libcudart.so.12"):
            with contextlib.suppress(OSError):
                if (free := free_bytes(ctypes.CDLL(name), self._device[1])) is not None:
                    return free
        return None


class GraphCopier:
    """Copies by running one operator over memory bound by pointer, `y = Identity(x)` or `y = Gather(x, slots)`.

    ONNX Runtime's `copy_tensors` and `OrtValue.update_inplace` copy whole values, never a range within one.
    """

    def __init__(self, provider: tuple[str, Mapping[str, str]], device: tuple[str, int]) -> None:
        self._provider = provider
        self._device = device
        self._sessions: dict[str, InferenceSession] = {}

    def allocate(self, size: int) -> Block:
        """An OrtValue on the device."""
        with wrapped_errors():
            value = import_onnxruntime().OrtValue.ortvalue_from_shape_and_type([size], np.uint8, *self._device)
            return Block(pointer=int(value.data_ptr()), size=size, owner=value)

    def copy(self, target: int, source: int, size: int) -> None:
        """Device to device."""
        with self._ran("Identity") as binding:
            binding.bind_input("x", "uint8", [size], source)
            binding.bind_output("y", "uint8", [size], target)

    def gather(self, target: int, source: Block, slots: IntArray, slot_bytes: int) -> None:
        """Device to device, by whole words where a slot has them: the kernel counts elements in 32 bits."""
        dtype, width = ("int64", slot_bytes // 8) if slot_bytes % 8 == 0 else ("uint8", slot_bytes)
        with self._ran("Gather", dtype) as binding:
            binding.bind_input("x", dtype, [source.size // slot_bytes, width], source.pointer)
            binding.bind_host_input("slots", slots)
            binding.bind_output("y", dtype, [slots.size, width], target)

    def to_host(self, target: Bytes, source: int) -> None:
        """Device to host."""
        with self._ran("Identity") as binding:
            binding.bind_input("x", "uint8", target.shape, source)
            binding.bind_host_output("y", target)

    def from_host(self, target: int, source: Bytes) -> None:
        """Host to device."""
        with self._ran("Identity") as binding:
            binding.bind_host_input("x", source)
            binding.bind_output("y", "uint8", source.shape, target)

    @contextlib.contextmanager
    def _ran(self, operator: str, dtype: str = "uint8") -> Iterator[Binding]:
        """What is bound inside is run afterwards."""
        with wrapped_errors():
            key = f"{operator} {dtype}"
            if key not in self._sessions:
                load = import_onnxruntime().InferenceSession
                self._sessions[key] = load(_graph(operator, dtype), providers=[self._provider])
            binding = Binding(self._sessions[key].io_binding(), self._device)
            yield binding
            self._sessions[key].run_with_iobinding(binding.handle)


def free_bytes(runtime: ctypes.CDLL, device: int) -> int | None:
    """Bytes free on a device; the runtime answers for the device that is current, which is then as it was before."""
    before, free, total = ctypes.c_int(), ctypes.c_size_t(), ctypes.c_size_t()
    if runtime.cudaGetDevice(ctypes.byref(before)) or runtime.cudaSetDevice(device):
        return None
    failed = runtime.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
    runtime.cudaSetDevice(before)
    return None if failed else free.value


def _graph(operator: str, dtype: str) -> bytes:
    """`y = operator(x)` over bytes or words, or `y = operator(x, slots)` over rows of them."""
    import onnx
    from onnx import helper

    kind, rank = getattr(onnx.TensorProto, dtype.upper()), 2 if operator == "Gather" else 1
    x, y = (helper.make_tensor_value_info(name, kind, [f"{name}.{axis}" for axis in range(rank)]) for name in "xy")
    inputs = [x, helper.make_tensor_value_info("slots", onnx.TensorProto.INT64, ["N"])][:rank]
    node = helper.make_node(operator, [each.name for each in inputs], ["y"])
    opset = helper.make_opsetid("", contract.OPSET)
    graph = helper.make_graph([node], "copy", inputs, [y])
    model: bytes = helper.make_model(graph, opset_imports=[opset], ir_version=contract.IR_VERSION).SerializeToString()
    return model
