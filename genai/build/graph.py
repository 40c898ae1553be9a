"""A thin layer over `onnx.helper` for writing a graph node by node, with weights streamed to an external data file.

Values are plain strings (ONNX value names). Nothing here knows about decoders.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import BinaryIO, TypeAlias

import ml_dtypes
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


class ExternalData(AbstractContextManager["ExternalData"]):
    """The file beside `model.onnx` that holds the weights, written once, front to back."""

    def __init__(self, path: Path) -> None:
        self._name = path.name
        self._file: BinaryIO = path.open("wb")

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, name: str, array: Array) -> onnx.TensorProto:
        """Append an array; returns the initializer that refers to it."""
        return self.write_stack(name, array.shape, array.dtype, [array])

    def write_stack(
        self, name: str, shape: Sequence[int], dtype: np.dtype[np.generic], items: Iterable[Array]
    ) -> onnx.TensorProto:
        """Append an array that comes in pieces, none of which is kept; returns the initializer that refers to it."""
        nbytes = math.prod(shape) * dtype.itemsize
        offset = -(-self._file.tell() // _ALIGNMENT) * _ALIGNMENT if nbytes >= _ALIGNMENT else self._file.tell()
        self._file.seek(offset)
        written = 0
        for item in items:
            written += self._file.write(np.ascontiguousarray(item, dtype).reshape(-1).view(np.uint8).data)
        if written != nbytes:
            raise ValueError(f"the weight {name!r} has {written} bytes, its shape says {nbytes}")
        tensor = onnx.TensorProto(name=name, data_type=helper.np_dtype_to_tensor_dtype(dtype), dims=shape)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", self._name), ("offset", str(offset)), ("length", str(nbytes))):
            tensor.external_data.add(key=key, value=value)
        return tensor


class GraphBuilder:
    """Collects nodes, weights, inputs and outputs, and makes the model of them.

    row_start: with what each row of a cache begins, by the cache's name, as float32 [width]; the writer of a layer that
    wants a reserved slot puts it here, and the package gets its `row_start.bin` (`build/row_start.py`).
    """

    def __init__(self, data: ExternalData) -> None:
        self.row_start: dict[str, npt.NDArray[np.float32]] = {}
        self._data = data
        self._nodes: list[onnx.NodeProto] = []
        self._initializers: dict[str, onnx.TensorProto] = {}
        self._scope: list[str] = []
        self._count: dict[str, int] = {}

    @contextmanager
    def scope(self, name: str) -> Iterator[None]:
        """Within `with graph.scope("layer.0"):` node names start with that."""
        self._scope.append(name)
        yield
        self._scope.pop()

    def op(self, kind: str, *inputs: str | None, **attributes: Attribute | None) -> str:
        """Add a node with one output; None is an omitted optional input, attributes that are None are left out.

        The attribute `domain` is the operator's domain.
        """
        return self.ops(kind, *inputs, num_outputs=1, **attributes)[0]

    def ops(self, kind: str, *inputs: str | None, num_outputs: int, **attributes: Attribute | None) -> list[str]:
        """Add a node with several outputs."""
        return self.op_chosen(kind, *inputs, outputs=[True] * num_outputs, **attributes)

    def op_chosen(
        self, kind: str, *inputs: str | None, outputs: Sequence[bool], **attributes: Attribute | None
    ) -> list[str]:
        """Add a node with optional outputs: those marked False are omitted; returns the names of the others."""
        name = self._unique(kind)
        names = [name] if len(outputs) == 1 else [f"{name}:{i}" for i in range(len(outputs))]
        names = [output if wanted else "" for output, wanted in zip(names, outputs, strict=True)]
        self._add(name, kind, inputs, names, attributes)
        return [output for output in names if output]

    def op_into(self, output: str, kind: str, *inputs: str | None, **attributes: Attribute | None) -> str:
        """Add a node whose output has a given name: a graph output."""
        self._add(self._unique(kind), kind, inputs, [output], attributes)
        return output

    def ops_into(
        self, outputs: Sequence[str | None], kind: str, *inputs: str | None, **attributes: Attribute | None
    ) -> list[str]:
        """Add a node with several outputs, of which those that are named are graph outputs; returns all names."""
        name = self._unique(kind)
        names = [output or f"{name}:{i}" for i, output in enumerate(outputs)]
        self._add(name, kind, inputs, names, attributes)
        return names

    def choose(
        self, condition: str, then: Callable[[], str], otherwise: Callable[[], str], dtype: np.dtype[np.generic]
    ) -> str:
        """The value of this type that one of two functions writes, by a bool: only that one's nodes run (`If`)."""
        return self.choose_all(condition, lambda: [then()], lambda: [otherwise()], dtype)[0]

    def choose_all(
        self,
        condition: str,
        then: Callable[[], Sequence[str]],
        otherwise: Callable[[], Sequence[str]],
        dtype: np.dtype[np.generic],
    ) -> list[str]:
        """The same of several values, as many from one as from the other."""
        name = self._unique("If")
        branches = [
            self._branch(f"{name}/{kind}", write, dtype) for kind, write in (("then", then), ("else", otherwise))
        ]
        num_outputs = len(branches[0].output)
        names = [name] if num_outputs == 1 else [f"{name}:{i}" for i in range(num_outputs)]
        node = helper.make_node("If", [condition], names, name=name, then_branch=branches[0], else_branch=branches[1])
        self._nodes.append(node)
        return names

    def scan(
        self, updated: str, state: str, sequences: Sequence[str], step: Callable[[str, Sequence[str]], tuple[str, str]]
    ) -> str:
        """Results of a function for each item along the sequences' first dimension, stacked; all is float32 (`Scan`).

        step: what writes it: (state, items) -> (state, result); updated: what the last state is called, a graph output.
        """
        name = self._unique("Scan")
        given = [f"{name}/state", *(f"{name}/item.{index}" for index in range(len(sequences)))]
        outer, self._nodes = self._nodes, []
        made = step(given[0], given[1:])
        nodes, self._nodes = self._nodes, outer
        inputs, outputs = (
            [helper.make_tensor_value_info(value, onnx.TensorProto.FLOAT, None) for value in values]
            for values in (given, made)
        )
        body = helper.make_graph(nodes, f"{name}/step", inputs, outputs)
        node = helper.make_node(
            "Scan", [state, *sequences], [updated, name], name=name, body=body, num_scan_inputs=len(sequences)
        )
        self._nodes.append(node)
        return name

    def cast(self, x: str, old: np.dtype[np.generic], new: np.dtype[np.generic]) -> str:
        """A value of type `old` as `new`; x itself when they are the same."""
        return x if old == new else self.op("Cast", x, to=int(helper.np_dtype_to_tensor_dtype(new)))

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
        return self.stacked_weight(name, array.shape, array.dtype, [array])

    def stacked_weight(
        self, name: str, shape: Sequence[int], dtype: np.dtype[np.generic], items: Iterable[Array]
    ) -> str:
        """A weight that comes in pieces, each appended to the external data at once."""
        if name in self._initializers:
            raise ValueError(f"the weight {name!r} is added twice")
        self._initializers[name] = self._data.write_stack(name, shape, dtype, items)
        return name

    def optional_input(self, tensor: TensorType) -> None:
        """Let an input whose first dimension is free be left out of runs: it is empty then."""
        self._initializers[tensor.name] = onnx.TensorProto(
            name=tensor.name,
            data_type=helper.np_dtype_to_tensor_dtype(numpy_dtype(tensor.dtype)),
            dims=[0, *(size for size in tensor.shape[1:] if isinstance(size, int))],
            raw_data=b"",
        )

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
        """The finished model."""
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
        name: str,
        kind: str,
        inputs: Sequence[str | None],
        outputs: Sequence[str],
        attributes: Mapping[str, Attribute | None],
    ) -> None:
        domain = attributes.get("domain")
        node = helper.make_node(kind, [value or "" for value in inputs], outputs, name=name, domain=str(domain or ""))
        for key, value in attributes.items():
            if value is not None and key != "domain":
                node.attribute.append(helper.make_attribute(key, value))
        self._nodes.append(node)

    def _branch(self, name: str, write: Callable[[], Sequence[str]], dtype: np.dtype[np.generic]) -> onnx.GraphProto:
        """What a function writes as a graph of its own, which reads this one's values."""
        outer, self._nodes = self._nodes, []
        results = write()
        nodes, self._nodes = self._nodes, outer
        kind = helper.np_dtype_to_tensor_dtype(dtype)
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(each, kind, None) for each in results])

    def _unique(self, name: str) -> str:
        """A name in the current scope that no other node has."""
        name = "/".join([*self._scope, name])
        count = self._count[name] = self._count.get(name, 0) + 1
        return name if count == 1 else f"{name}.{count}"


def _value_info(tensor: TensorType) -> onnx.ValueInfoProto:
    dtype = helper.np_dtype_to_tensor_dtype(numpy_dtype(tensor.dtype))
    return helper.make_tensor_value_info(tensor.name, dtype, tensor.shape)


def numpy_dtype(name: str) -> np.dtype[np.generic]:
    """A type of the contract as NumPy's."""
    return np.dtype(ml_dtypes.bfloat16 if name == "bfloat16" else name)
