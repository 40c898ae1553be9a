"""The preview's `Tensor`: what a pipeline gives that is no text.

Source: github.com/onnx/working-groups, generative-ai/genai-interfaces/include/pipelines/data_types.hpp.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, TypeAlias, runtime_checkable

import numpy as np
import numpy.typing as npt

from genai.errors import ConfigError

Array: TypeAlias = npt.NDArray[np.generic]


@runtime_checkable
class HasArray(Protocol):
    """Memory that NumPy can look at."""

    def __array__(self) -> Array:
        """A view of it, or a copy."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Tensor:
    """Numbers in a framework's memory.

    data: what holds them, kept alive by the tensor; shape: its sizes, the slowest first; type_id: the element type as
    ONNX numbers it (TensorProto.DataType), whoever made the tensor; framework_id: the backend that made it.
    """

    data: HasArray
    shape: tuple[int, ...]
    type_id: int
    framework_id: str

    @classmethod
    def of(cls, array: HasArray, framework_id: str) -> Tensor:
        """A tensor over this memory, which is not copied. Raises: ConfigError for a type that ONNX does not have."""
        from onnx import helper

        view = np.asarray(array)
        try:
            type_id = int(helper.np_dtype_to_tensor_dtype(view.dtype))
        except (KeyError, ValueError):
            raise ConfigError(f"a tensor's elements are of a type of ONNX's, not {view.dtype}") from None
        return cls(array, view.shape, type_id, framework_id)

    def numpy(self) -> Array:
        """The numbers; shares the tensor's memory where NumPy can."""
        return np.asarray(self.data)
