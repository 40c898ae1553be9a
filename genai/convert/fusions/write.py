"""Writing nodes into a graph in front of one that is there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from genai.convert.fusions.match import only_output

Dims = Sequence[int | str | ir.SymbolicDim | None]


class Writer:
    """Writes nodes before a node, named and annotated after it."""

    def __init__(self, before: ir.Node) -> None:
        assert isinstance(before.graph, ir.Graph), "fusing works on the main graph"
        self._before = before
        self._graph = before.graph
        self._num_written = 0

    def op(
        self, kind: str, *inputs: ir.Value | None, shape: Dims | None = None, **attributes: int | float | list[int]
    ) -> ir.Value:
        """The result of a standard operator, of its first input's type."""
        name = f"{self._before.name}/fused.{self._num_written}.{kind}"
        self._num_written += 1
        node = ir.node(kind, inputs, attributes=attributes, name=name)
        node.metadata_props.update(self._before.metadata_props)
        value = only_output(node)
        value.type = None if inputs[0] is None else inputs[0].type
        value.shape = None if shape is None else ir.Shape(shape)
        self._before.prepend(node)
        return value

    def integers(self, numbers: Sequence[int]) -> ir.Value:
        """A stored list of integers [len(numbers)] int64, one in the graph for equal lists."""
        name = f"integers_{'_'.join(map(str, numbers))}".replace("-", "m")
        stored = self._graph.initializers.get(name)
        if stored is None:
            tensor = ir.tensor(np.array(numbers, np.int64), name=name)
            kind = ir.TensorType(ir.DataType.INT64)
            stored = ir.Value(name=name, shape=ir.Shape([len(numbers)]), type=kind, const_value=tensor)
            self._graph.register_initializer(stored)
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


def dims_of(value: ir.Value, count: int) -> Dims:
    """The dimensions of a value with this many; those that are not known are None."""
    return [None] * count if value.shape is None or len(value.shape) != count else list(value.shape)
