"""Writing nodes and constants into an `onnx_ir` graph."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from genai.build.graph import Attribute

Dims = Sequence[int | str | ir.SymbolicDim | None]


class Nodes:
    """Adds nodes at the graph's end, for `Graph.sort` to put where they belong, or in front of one that is there."""

    def __init__(self, graph: ir.Graph) -> None:
        self._graph = graph
        self._scope = "genai"
        self._before: ir.Node | None = None
        self._names = {node.name for node in graph}

    @contextmanager
    def layer(self, index: int) -> Iterator[None]:
        """Within `with nodes.layer(3):` node names say so."""
        outer, self._scope = self._scope, f"genai/layers.{index}"
        yield
        self._scope = outer

    @contextmanager
    def before(self, node: ir.Node) -> Iterator[None]:
        """Within `with nodes.before(node):` nodes stand in front of that one, named and annotated after it."""
        outer = self._scope, self._before
        self._scope, self._before = f"{node.name}/fused", node
        try:
            yield
        finally:
            self._scope, self._before = outer

    def op(self, kind: str, *inputs: ir.Value | None, **attributes: Attribute | None) -> ir.Value:
        """Add a node with one output; None is an omitted input, attributes that are None are left out.

        The attribute `domain` is the operator's domain.
        """
        return self.ops(kind, *inputs, num_outputs=1, **attributes)[0]

    def typed(
        self,
        kind: str,
        *inputs: ir.Value | None,
        dtype: ir.DataType | None,
        shape: Dims | ir.Shape | None = None,
        **attributes: Attribute | None,
    ) -> ir.Value:
        """As `op`, with what is known of the result's type and shape."""
        result = self.op(kind, *inputs, **attributes)
        if dtype is not None:
            result.dtype = dtype
        if shape is not None:
            result.shape = ir.Shape(shape)
        return result

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
        if self._before is None:
            self._graph.append(node)
        else:
            node.metadata_props.update(self._before.metadata_props)
            self._before.prepend(node)
        return list(node.outputs)

    def constant(self, value: npt.ArrayLike, dtype: npt.DTypeLike) -> ir.Value:
        """A small constant, stored in the model file; equal ones are stored once."""
        array = np.asarray(value, dtype=dtype)
        digest = hashlib.sha256(array.tobytes()).hexdigest()[:32]
        name = f"const/{array.dtype.name}{list(array.shape)}/{digest}"
        stored = self._graph.initializers.get(name)
        return stored if stored is not None else store(self._graph, name, ir.tensor(array, name=name))

    def integers(self, numbers: Sequence[int]) -> ir.Value:
        """A stored list of integers, [len(numbers)] int64."""
        return self.constant(numbers, np.int64)

    def cast(self, x: ir.Value, dtype: ir.DataType) -> ir.Value:
        """A value in another type; x itself where its type is known to be that."""
        return x if x.dtype == dtype else self.typed("Cast", x, to=int(dtype), dtype=dtype, shape=x.shape)

    def _node_name(self, kind: str) -> str:
        number = len(self._names)
        while (name := f"{self._scope}/{kind}.{number}") in self._names:
            number += 1
        self._names.add(name)
        return name


def store(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Add an initializer under a name that the graph does not have yet."""
    shape = ir.Shape(list(tensor.shape.numpy()))
    stored = ir.Value(name=name, shape=shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(stored)
    return stored


def take_over(old: ir.Value, new: ir.Value) -> None:
    """Let a value be read in another's place, under its name where the graph returns it.

    An input, or what is returned already, does not become an output: the old one stays for that.
    """
    is_output = old.is_graph_output()
    is_free = not (new.is_graph_output() or new.is_graph_input() or new.is_initializer())
    if is_output and not is_free:
        for node, index in list(old.uses()):
            node.replace_input_with(index, new)
        return
    old.replace_all_uses_with(new, replace_graph_outputs=True)
    if is_output:
        old.name, new.name = f"{old.name}.replaced", old.name
