"""A thin layer over `onnx.helper` for writing a graph node by node, with weights streamed to an external data file.

Values are plain strings (ONNX value names). Nothing here knows about decoders.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper

from genai import contract
from genai.contract import TensorType

Array: TypeAlias = npt.NDArray[np.generic]
Attribute: TypeAlias = int | float | str | Sequence[int]

CONTRIB = "com.microsoft"
_ALIGNMENT = 4096  # ONNX Runtime maps external data by pages


class ExternalData:
    """The file beside `model.onnx` that holds the weights, written once, front to back."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._file: BinaryIO = path.open("wb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()

    def write(self, name: str, array: Array) -> onnx.TensorProto:
        """Append an array; returns the initializer that refers to it."""
        offset = -(-self._file.tell() // _ALIGNMENT) * _ALIGNMENT if array.nbytes >= _ALIGNMENT else self._file.tell()
        self._file.seek(offset)
        self._file.write(np.ascontiguousarray(array).data if array.dtype.kind != "V" else array.tobytes())
        tensor = onnx.TensorProto(
            name=name, data_type=helper.np_dtype_to_tensor_dtype(array.dtype), dims=array.shape
        )
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", self._name), ("offset", str(offset)), ("length", str(array.nbytes))):
            tensor.external_data.add(key=key, value=value)
        return tensor


class GraphBuilder:
    """Collects nodes, weights, inputs and outputs, and makes the model of them."""

    def __init__(self, data: ExternalData) -> None:
        self._data = data
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._scope: list[str] = []
        self._count: dict[str, int] = {}

    def scope(self, name: str) -> _Scope:
        """Within `with graph.scope("layer.0"):` node names start with that."""
        return _Scope(self._scope, name)

    def op(self, kind: str, *inputs: str | None, domain: str = "", **attributes: Attribute | None) -> str:
        """Add a node with one output; None is an omitted optional input, attributes that are None are left out."""
        return self.ops(kind, *inputs, domain=domain, num_outputs=1, **attributes)[0]

    def ops(
        self, kind: str, *inputs: str | None, num_outputs: int, domain: str = "", **attributes: Attribute | None
    ) -> list[str]:
        """Add a node with several outputs."""
        name = self._unique("/".join([*self._scope, kind]))
        outputs = [name] if num_outputs == 1 else [f"{name}:{i}" for i in range(num_outputs)]
        return self._add(kind, inputs, outputs, name, domain, attributes)

    def op_into(self, output: str, kind: str, *inputs: str | None, **attributes: Attribute | None) -> str:
        """Add a node whose output has a given name: a graph output."""
        name = self._unique("/".join([*self._scope, kind]))
        return self._add(kind, inputs, [output], name, "", attributes)[0]

    def op_chosen(
        self, kind: str, *inputs: str | None, outputs: Sequence[bool], domain: str = "", **attributes: Attribute | None
    ) -> list[str]:
        """Add a node with optional outputs: those marked False are omitted; returns the names of the others."""
        name = self._unique("/".join([*self._scope, kind]))
        names = [f"{name}:{i}" if wanted else "" for i, wanted in enumerate(outputs)]
        return [name for name in self._add(kind, inputs, names, name, domain, attributes) if name]

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike) -> str:
        """A small constant, stored in the model file; equal ones are stored once."""
        array = np.asarray(value, dtype=dtype)
        name = f"const/{array.dtype.name}{list(array.shape)}/{array.tobytes().hex()}"
        if len(name) > 80:
            name = self._unique("const")
        if name not in self._initializers:
            self._initializers[name] = onnx.numpy_helper.from_array(array, name)
        return name

    def weight(self, name: str, array: Array) -> str:
        """A weight, appended to the external data at once."""
        if name in self._initializers:
            raise ValueError(f"the weight {name!r} is added twice")
        self._initializers[name] = self._data.write(name, array)
        return name

    def alias(self, name: str, other: str, shape: Sequence[int]) -> str:
        """The same bytes as another weight under another shape: stored once."""
        tensor = onnx.TensorProto()
        tensor.CopyFrom(self._initializers[other])
        tensor.name = name
        tensor.dims[:] = shape
        self._initializers[name] = tensor
        return name

    def model(
        self, inputs: Sequence[TensorType], outputs: Sequence[TensorType], metadata: dict[str, str]
    ) -> onnx.ModelProto:
        """The finished model. Raises: onnx.checker.ValidationError for a graph that is not valid."""
        graph = helper.make_graph(
            self._nodes,
            "decoder",
            [_value_info(tensor) for tensor in inputs],
            [_value_info(tensor) for tensor in outputs],
            initializer=list(self._initializers.values()),
        )
        domains = {node.domain for node in self._nodes} | {""}
        opsets = [helper.make_opsetid(domain, contract.OPSET if not domain else 1) for domain in sorted(domains)]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=contract.IR_VERSION)
        model.producer_name = "onnx-kv-runtime"
        helper.set_model_props(model, metadata)
        return model

    def _add(
        self,
        kind: str,
        inputs: Sequence[str | None],
        outputs: list[str],
        name: str,
        domain: str,
        attributes: dict[str, Attribute | None],
    ) -> list[str]:
        given = {key: value for key, value in attributes.items() if value is not None}
        node = helper.make_node(kind, [value or "" for value in inputs], outputs, name=name, domain=domain, **given)
        self._nodes.append(node)
        return outputs

    def _unique(self, name: str) -> str:
        count = self._count[name] = self._count.get(name, 0) + 1
        return name if count == 1 else f"{name}.{count}"


class _Scope:
    def __init__(self, stack: list[str], name: str) -> None:
        self._stack, self._name = stack, name

    def __enter__(self) -> None:
        self._stack.append(self._name)

    def __exit__(self, *_: object) -> None:
        self._stack.pop()


def _value_info(tensor: TensorType) -> onnx.ValueInfoProto:
    dtype = helper.np_dtype_to_tensor_dtype(_numpy_dtype(tensor.dtype))
    return helper.make_tensor_value_info(tensor.name, dtype, tensor.shape)


def _numpy_dtype(name: str) -> np.dtype[np.generic]:
    if name == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(name)
