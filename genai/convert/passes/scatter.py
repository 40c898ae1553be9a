"""TensorScatter written with ScatterND, for execution providers that have no kernel for it, and back.

    TensorScatter(cache [B, S, N], new [B, T, N], write_indices [B], axis=1)
      = ScatterND(cache, places [B, T, 2], new)          places[b, t] = (b, write_indices[b] + t)

ScatterND, too, may write in place where input and output are one buffer; what it costs is measured in
`benchmarks/cache_updates.py`.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes

from genai import contract
from genai.convert.nodes import Nodes


def lower_scatter(model: ir.Model) -> int:
    """Replace every TensorScatter in place; returns how many there were."""
    graph, nodes = model.graph, Nodes(model.graph)
    scatters = [node for node in graph if node.op_type == "TensorScatter"]
    if scatters:
        places = _places(graph, nodes)
        for node in scatters:
            _exchange(nodes, node, "ScatterND", [node.inputs[0], places, node.inputs[1]])
        _tidy(model)
    return len(scatters)


def raise_scatter(model: ir.Model) -> int:
    """Replace every ScatterND that writes a cache by TensorScatter, in place; returns how many there were."""
    graph, nodes = model.graph, Nodes(model.graph)
    inputs = {value.name: value for value in graph.inputs}
    write_indices = inputs[contract.WRITE_INDICES]
    caches = {value for name, value in inputs.items() if name not in _BOOKKEEPING}
    scatters = [node for node in graph if node.op_type == "ScatterND" and node.inputs[0] in caches]
    for node in scatters:
        _exchange(nodes, node, "TensorScatter", [node.inputs[0], node.inputs[2], write_indices], axis=1, mode="linear")
    _tidy(model)
    return len(scatters)


_BOOKKEEPING = (
    contract.INPUT_IDS,
    contract.POSITION_IDS,
    contract.WRITE_INDICES,
    contract.NONPAD_KV_SEQLEN,
    contract.LOGITS_POSITIONS,
)


def _places(graph: ir.Graph, nodes: Nodes) -> ir.Value:
    """[B, T, 2]: row and slot of every new token."""
    inputs = {value.name: value for value in graph.inputs}
    zero, one = nodes.constant(0, np.int64), nodes.constant(1, np.int64)
    shape = nodes.op("Shape", inputs[contract.INPUT_IDS])
    batch, tokens = (
        nodes.op("Squeeze", nodes.op("Shape", inputs[contract.INPUT_IDS], start=axis, end=axis + 1)) for axis in (0, 1)
    )
    slots = nodes.op(
        "Add",
        nodes.op("Unsqueeze", inputs[contract.WRITE_INDICES], nodes.constant([1], np.int64)),
        nodes.op("Unsqueeze", nodes.op("Range", zero, tokens, one), nodes.constant([0], np.int64)),
    )
    rows = nodes.op("Unsqueeze", nodes.op("Range", zero, batch, one), nodes.constant([1], np.int64))
    last = nodes.constant([2], np.int64)
    parts = [nodes.op("Unsqueeze", part, last) for part in (nodes.op("Expand", rows, shape), slots)]
    return nodes.op("Concat", *parts, axis=2)


def _exchange(nodes: Nodes, old: ir.Node, kind: str, inputs: list[ir.Value | None], **attributes: int | str) -> None:
    new, result = nodes.op(kind, *inputs, **attributes), old.outputs[0]
    name, new.type, new.shape = result.name, result.type, result.shape
    result.replace_all_uses_with(new, replace_graph_outputs=True)
    result.name, new.name = f"{name}.old", name


def _tidy(model: ir.Model) -> None:
    model.graph.sort()
    passes.RemoveUnusedNodesPass()(model)
