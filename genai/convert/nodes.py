"""Writing nodes into an `onnx_ir` graph, and asking it simple questions."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from genai.build.graph import Attribute


class Nodes:
    """Adds nodes at the graph's end; `Graph.sort` puts them where they belong."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._scope = "genai"
        self._names = {node.name for node in graph}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    @contextmanager
    def layer(self, index: int) -> Iterator[None]:
        """Within `with nodes.layer(3):` node names say so."""
        outer, self._scope = self._scope, f"genai/layers.{index}"
        yield
        self._scope = outer

    def op(self, kind: str, *inputs: ir.Value | None, **attributes: Attribute | None) -> ir.Value:
        """Add a node with one output; None is an omitted input, attributes that are None are left out.

        The attribute `domain` is the operator's domain.
        """
        return self.ops(kind, *inputs, num_outputs=1, **attributes)[0]

    def ops(
        self, kind: str, *inputs: ir.Value | None, num_outputs: int, **attributes: Attribute | None
    ) -> list[ir.Value]:
        """Add a node with several outputs."""
        domain = str(attributes.pop("domain", None) or "")
        used = list(inputs)
        while used and used[-1] is None:
            used.pop()
        values = {name: value for name, value in attributes.items() if value is not None}
        node = ir.node(kind, used, values, domain=domain, num_outputs=num_outputs, name=self._node_name(kind))
        self._graph.append(node)
        return list(node.outputs)

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike) -> ir.Value:
        """A small constant, stored in the model file; equal ones are stored once."""
        array = np.asarray(value, dtype=dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = self._free_name()
            tensor = ir.tensor(array, name=name)
            initializer = ir.Value(
                name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor
            )
            self._graph.register_initializer(initializer)
            self._constants[key] = initializer
        return self._constants[key]

    def _node_name(self, kind: str) -> str:
        number = len(self._names)
        while (name := f"{self._scope}/{kind}.{number}") in self._names:
            number += 1
        self._names.add(name)
        return name

    def _free_name(self) -> str:
        """A name that no other constant has: several of these may have written into the graph."""
        number = len(self._graph.initializers)
        while (name := f"const.{number}") in self._graph.initializers:
            number += 1
        return name

    def cast(self, x: ir.Value, dtype: ir.DataType) -> ir.Value:
        """A value in another type; x itself where its type is known to be that."""
        if x.dtype == dtype:
            return x
        result = self.op("Cast", x, to=int(dtype))
        result.dtype, result.shape = dtype, x.shape
        return result


def constant_values(graph: ir.Graph) -> set[ir.Value]:
    """All values that depend on initializers and constants alone."""
    found = set(graph.initializers.values())
    for node in graph:
        if node.op_type != "RandomNormal" and all(value is None or value in found for value in node.inputs):
            found.update(node.outputs)
    return found


def dimension(value: ir.Value, axis: int) -> int | None:
    """A dimension that is known and fixed, else None."""
    if value.shape is None or not -len(value.shape) <= axis < len(value.shape):
        return None
    size = value.shape[axis]
    return size if isinstance(size, int) else None
