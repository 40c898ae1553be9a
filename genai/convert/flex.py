"""FlexAttention (ai.onnx.preview) written out, its two modifiers as part of the graph.

    q, k ─► MatMul ─► scale ─► score_mod ─► Softmax ─► prob_mod ─► MatMul ◄─ v      k, v: heads repeated to q's

No runtime has a kernel for it yet. Written out it can be run, and what its modifiers do is told as everything between
products and softmax is: by what they compute (`sources/past_present/scores.py`).
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import onnx_ir as ir

from genai.config import EngineConfig
from genai.convert.nodes import Nodes, take_over
from genai.convert.normalize import inline
from genai.convert.verify import WITHOUT_ROUNDING
from genai.errors import UnsupportedModelError
from genai.runtime.session import Session

_DOMAIN = "ai.onnx.preview"
_PRECISIONS = (ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16)


def write_out(model: ir.Model) -> int:
    """Write out every FlexAttention in place; how many there were. Raises: UnsupportedModelError for a damaged one."""
    if _DOMAIN not in model.opset_imports:
        return 0
    inline(model)
    found = [node for node in model.graph if node.domain == _DOMAIN and node.op_type == "FlexAttention"]
    taken = set[str]()
    for number, node in enumerate(found):
        name = node.name or node.op_type
        while name in taken:  # what is written out is called after the node, each apart
            name += f".{number}"
        taken.add(name)
        node.name = name
        _write_out(model.graph, node)
    if all(node.domain != _DOMAIN for node in model.graph):
        del model.opset_imports[_DOMAIN]
        model.graph.opset_imports.pop(_DOMAIN, None)
    return len(found)


def loaded(model: ir.Model) -> Session:
    """A model that is in memory, its weights in files, as a session. Raises: ModelError."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        ir.save(model, path, external_data="model.onnx.data")
        return Session(path, EngineConfig(session_options=WITHOUT_ROUNDING))


def _write_out(graph: ir.Graph, node: ir.Node) -> None:
    q, k, v = (*node.inputs, None, None, None)[:3]
    if q is None or k is None or v is None:
        raise UnsupportedModelError(f"{node.name}: FlexAttention without queries, keys or values")
    dtype = next((value.dtype for value in (q, k, v) if value.dtype is not None), None)
    if dtype is None:
        raise UnsupportedModelError(f"{node.name}: nothing tells the type of its inputs; infer the graph's types first")
    nodes = Nodes(graph)
    with nodes.before(node):
        scores = nodes.op("MatMul", q, nodes.op("Transpose", _repeated(nodes, q, k), perm=[0, 1, 3, 2]))
        scores = nodes.op("Mul", scores, _scale(nodes, node, q, dtype))
        inner = _precision(node, dtype)
        scores = _modified(graph, node, "score_mod", _cast(nodes, scores, dtype, inner))
        weights = _modified(graph, node, "prob_mod", nodes.op("Softmax", scores, axis=-1))
        result = nodes.op("MatMul", weights, _cast(nodes, _repeated(nodes, q, v), dtype, inner))
        result = _cast(nodes, result, inner, dtype)
    take_over(node.outputs[0], result)
    graph.remove(node, safe=True)


def _precision(node: ir.Node, dtype: ir.DataType) -> ir.DataType:
    """The type of scores and weights: float32, for doubles theirs, where the node does not say."""
    default = dtype if dtype == ir.DataType.DOUBLE else ir.DataType.FLOAT
    told = node.attributes.get_int("softmax_precision", int(default))
    if told not in map(int, _PRECISIONS):
        raise UnsupportedModelError(f"{node.name}: softmax_precision={told} is no floating-point type")
    return ir.DataType(told)


def _cast(nodes: Nodes, value: ir.Value, dtype: ir.DataType, to: ir.DataType) -> ir.Value:
    return value if dtype == to else nodes.op("Cast", value, to=int(to))


def _scale(nodes: Nodes, node: ir.Node, q: ir.Value, dtype: ir.DataType) -> ir.Value:
    """The factor on the products; 1 / sqrt(head size) where the node does not say."""
    if "scale" in node.attributes:
        return nodes.constant(node.attributes.get_float("scale", 1.0), dtype.numpy())
    size = nodes.op("Cast", nodes.op("Shape", q, start=3, end=4), to=int(dtype))
    return nodes.op("Reciprocal", nodes.op("Sqrt", size))


def _repeated(nodes: Nodes, q: ir.Value, x: ir.Value) -> ir.Value:
    """x [B, Hkv, S, D] with each head as often as q [B, H, T, D] has heads for it: [B, H, S, D]."""
    if q.shape is not None and x.shape is not None and isinstance(q.shape[1], int) and q.shape[1] == x.shape[1]:
        return x
    one = nodes.integers([1])
    heads = nodes.op("Shape", q, start=1, end=2)
    group = nodes.op("Div", heads, nodes.op("Shape", x, start=1, end=2))
    size = nodes.op("Concat", one, one, group, one, one, axis=0)
    copies = nodes.op("Expand", nodes.op("Unsqueeze", x, nodes.integers([2])), size)
    rest = nodes.op("Shape", x, start=2, end=4)
    return nodes.op("Reshape", copies, nodes.op("Concat", nodes.integers([0]), heads, rest, axis=0))


def _modified(graph: ir.Graph, node: ir.Node, name: str, value: ir.Value) -> ir.Value:
    """A modifier's own nodes, in front of the node, on a value; the value itself where there is none."""
    if name not in node.attributes:
        return value
    body = node.attributes[name].as_graph()
    if len(body.inputs) != 1 or len(body.outputs) != 1:
        raise UnsupportedModelError(
            f"{node.name}: {name} takes {len(body.inputs)} values and gives {len(body.outputs)}; it must be one each"
        )
    prefix, (given,), (result,) = f"{node.name}/{name}", body.inputs, body.outputs
    body.outputs.clear()
    given.replace_all_uses_with(value)
    result = value if result is given else result
    for weight in list(body.initializers.values()):
        body.initializers.pop(weight.name or "")
        weight.name = f"{prefix}/{weight.name}"
        graph.register_initializer(weight)
    for number, inner in enumerate(list(body)):
        body.remove(inner)
        inner.name = f"{prefix}/{inner.op_type}.{number}"
        for output in inner.outputs:
            output.name = f"{prefix}/{output.name}" if output.name else None
        graph.insert_before(node, inner)
    return result
