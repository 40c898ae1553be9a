"""What the runtime and the builders ask of a device, whichever it is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Protocol

import numpy as np
import numpy.typing as npt

from genai.config import EngineConfig, Precision
from genai.errors import ConfigError
from genai.runtime.layout import Move
from genai.runtime.ort import Binding, InferenceSession

Bytes = npt.NDArray[np.uint8]


class Buffer(Protocol):
    """A block of device memory, addressed in bytes."""

    @property
    def pointer(self) -> int:
        """Where it begins: to bind, not to read."""
        ...

    def clear(self, offset: int, size: int) -> None:
        """Zero a range."""
        ...

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy `size` bytes within the buffer; the ranges do not overlap."""
        ...

    def arrange(self, moves: Sequence[Move], slot_bytes: int) -> None:
        """Move rows as the layout says, in slots of this many bytes."""
        ...

    def read(self, offset: int, size: int) -> Bytes:
        """A copy of a range in host memory."""
        ...

    def write(self, offset: int, data: Bytes) -> None:
        """Overwrite a range from host memory."""
        ...


class Provider(Protocol):
    """One device that graphs run on.

    name: as in `EngineConfig.device`; execution_provider: ONNX Runtime's name for it; kind: "CPU" or "GPU".
    activations: the float type that integer weights run with; auto_precision: what the precision "auto" means, "auto"
    itself for a file's own blocks. has_query_norms: GroupQueryAttention can norm queries and keys on it.
    has_small_map: its libraries map about as much memory as they use, so that a process can limit itself.
    options: what ONNX Runtime's execution provider is given.
    """

    name: ClassVar[str]
    execution_provider: ClassVar[str]
    kind: ClassVar[str]
    activations: ClassVar[Literal["float32", "float16"]]
    auto_precision: ClassVar[Precision]
    has_query_norms: ClassVar[bool]
    has_small_map: ClassVar[bool]
    options: Mapping[str, str]

    def __init__(self, config: EngineConfig) -> None:
        """Raises: ConfigError for options that this device cannot follow."""
        ...

    @classmethod
    def missing(cls) -> str | None:
        """Why graphs cannot run on it here, and what to do; None if they can."""
        return None

    def allocate(self, size: int) -> Buffer:
        """A buffer of this many bytes, all zero.

        Zero, because Attention reads a row's whole capacity: what is masked counts 0 times, and 0 × NaN is NaN.
        """
        ...

    def binding(self, session: InferenceSession) -> Binding:
        """An empty set of bindings for a graph."""
        ...

    def free_memory(self) -> int | None:
        """Bytes free on the device; None if it cannot be told."""
        ...

    def processor(self) -> str | None:
        """What runs graphs on it, as far as kernels choose by that; None if it cannot be told."""
        return None

    def advice(self, cache_dtype: str) -> str | None:
        """What to do where the kernels for a cache type are missing; None: nothing but another ONNX Runtime."""
        return None


def device_id(config: EngineConfig) -> int:
    """The `device_id` among the provider's options, 0 by default. Raises: ConfigError unless it is a whole number."""
    value = str(config.provider_options.get("device_id", 0))
    if not (value.isascii() and value.isdigit()):
        raise ConfigError(f"provider_options device_id={value!r}: must be a whole number, 0 or more")
    return int(value)
