"""A float32 graph in 16 bits, with what needs more precision left in float32.

    in 16 bits   weights, products, residual stream, caches, attention (its softmax in float32: `softmax_precision`)
    in float32   powers, roots, means, softmaxes, caps, angles of positions, logits, norms inside (`stash_type`), states

Bookkeeping (masks, angles) is computed as it was, and rounded where hidden states meet it.
"""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from genai import contract
from genai.convert.fusions.attention import token_dependent
from genai.convert.nodes import Nodes, store
from genai.convert.normalize import infer_shapes
from genai.errors import ConfigError

_WIDE = {
    "Pow", "Sqrt", "Reciprocal", "ReduceMean", "ReduceSum", "ReduceMax", "ReduceSumSquare", "ReduceL2", "Exp", "Log",
    "Erf", "Softmax", "LogSoftmax", "Softplus", "Tanh", "LinearAttention",
}  # fmt: skip
_WITHOUT_BF16_KERNELS = {"Sigmoid", "Gelu", "FastGelu", "QuickGelu", "BiasGelu", "Relu"}
_LARGEST = 65504.0
_FLOAT = ir.DataType.FLOAT


def narrow(model: ir.Model, dtype: ir.DataType) -> None:
    """Turn a contract graph from float32 to FLOAT16 or BFLOAT16, in place.

    Raises: ConfigError for a weight that float16 cannot hold.
    """
    infer_shapes(model)
    graph = model.graph
    pass_ = _Narrowing(graph, dtype)
    for value in graph.inputs:
        if value.dtype == _FLOAT and not contract.is_state(value.name or ""):
            value.dtype = dtype
            pass_.narrowed.add(value)
    for node in list(graph):
        pass_.visit(node)
    pass_.widen_outputs()
    graph.sort()
    passes.RemoveUnusedNodesPass()(model)


class _Narrowing:
    """The pass's state. narrowed: values that have 16 bits now."""

    def __init__(self, graph: ir.Graph, dtype: ir.DataType) -> None:
        self.narrowed: set[ir.Value] = set()
        self._graph, self._dtype = graph, dtype
        self._nodes = Nodes(graph)
        self._flowing = token_dependent(graph)
        self._wide = _WIDE | (_WITHOUT_BF16_KERNELS if dtype == ir.DataType.BFLOAT16 else set())
        self._copies: dict[tuple[ir.Value, bool], ir.Value] = {}

    def visit(self, node: ir.Node) -> None:
        """Give a node's float inputs the type that it computes in, and its outputs theirs."""
        flows = any(output in self._flowing for output in node.outputs)
        is_narrow = flows and node.op_type not in self._wide
        if node.op_type == "Cast" and node.attributes.get_int("to", 0) == _FLOAT:
            if not is_narrow:
                return
            node.attributes["to"] = ir.AttrInt64("to", int(self._dtype))
        else:
            for index, value in enumerate(node.inputs):
                if value is not None and self._is_float(value) and (value in self.narrowed) != is_narrow:
                    node.replace_input_with(index, self._copy(value, is_narrow))
        if is_narrow:
            self._narrow_outputs(node)

    def widen_outputs(self) -> None:
        """Logits and states are float32 whatever the rest is."""
        names = (value.name or "" for value in self._graph.inputs)
        states = {contract.updated(name) for name in names if contract.is_state(name)}
        for place, value in enumerate(self._graph.outputs):
            name = value.name
            if value in self.narrowed and name in (contract.LOGITS, *states):
                value.name = f"{name}.narrow"
                self._graph.outputs[place] = wide = self._nodes.cast(value, _FLOAT)
                wide.name = name

    def _narrow_outputs(self, node: ir.Node) -> None:
        if node.op_type == "Attention":
            node.attributes["softmax_precision"] = ir.AttrInt64("softmax_precision", int(_FLOAT))
        for output in node.outputs:
            if self._is_float(output):
                output.dtype = self._dtype
                self.narrowed.add(output)

    def _is_float(self, value: ir.Value) -> bool:
        return value in self.narrowed or value.dtype == _FLOAT

    def _copy(self, value: ir.Value, is_narrow: bool) -> ir.Value:
        """A value in the other type: a weight rounded, anything else cast."""
        key = (value, is_narrow)
        if key not in self._copies:
            is_weight = value.const_value is not None and value.producer() is None
            to = self._dtype if is_narrow else _FLOAT
            new = self._rounded(value) if is_weight and is_narrow else self._nodes.op("Cast", value, to=int(to))
            new.dtype, new.shape = to, value.shape
            if is_narrow:
                self.narrowed.add(new)
            self._copies[key] = new
        return self._copies[key]

    def _rounded(self, value: ir.Value) -> ir.Value:
        """A weight in 16 bits, rounded when it is written and not before."""
        tensor, name, dtype = value.const_value, f"{value.name}.narrow", self._dtype
        assert tensor is not None

        def read() -> ir.TensorProtocol:
            array = np.asarray(tensor.numpy(), np.float32)
            if dtype == ir.DataType.FLOAT16:
                largest = float(np.abs(array, where=np.isfinite(array), out=np.zeros_like(array)).max(initial=0))
                if largest > _LARGEST:
                    raise ConfigError(
                        f"the weight {value.name!r} reaches {largest:.3g}, beyond float16: convert to bf16"
                    )
                return ir.tensor(array.astype(np.float16), name=name)
            return ir.tensor(array.astype(ml_dtypes.bfloat16), name=name)

        shape = ir.Shape(list(tensor.shape.numpy()))
        return store(self._graph, name, ir.LazyTensor(read, dtype=dtype, shape=shape, name=name))
