"""How large a stored tensor is, and where it lies, without reading it."""

from __future__ import annotations

import math
from collections.abc import Mapping

import onnx
from onnx import helper

from genai.errors import ContractError

_SMALL_TYPES: Mapping[int, int] = {
    onnx.TensorProto.INT4: 4,
    onnx.TensorProto.UINT4: 4,
    onnx.TensorProto.FLOAT4E2M1: 4,
}


def place_of(tensor: onnx.TensorProto) -> tuple[str, int, int] | None:
    """An external tensor's file, offset and length."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL:
        return None
    entries = {entry.key: entry.value for entry in tensor.external_data}
    try:
        return entries.get("location", ""), int(entries.get("offset", 0)), int(entries.get("length", 0))
    except ValueError:
        raise ContractError(
            f"the external data of tensor {tensor.name!r} has an offset or length that is no number"
        ) from None


def num_bytes(tensor: onnx.TensorProto) -> int:
    """Bytes of a tensor's elements. Raises: ContractError for an unknown type or a negative dimension."""
    if tensor.data_type == onnx.TensorProto.STRING:
        return sum(len(text) for text in tensor.string_data)
    bits = _SMALL_TYPES.get(tensor.data_type)
    if bits is None:
        try:
            bits = 8 * int(helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize)
        except KeyError:
            raise ContractError(f"tensor {tensor.name!r} has the unknown type {tensor.data_type}") from None
    if any(size < 0 for size in tensor.dims):
        raise ContractError(f"tensor {tensor.name!r} has a negative dimension: {list(tensor.dims)}")
    return (int(math.prod(tensor.dims)) * bits + 7) // 8
