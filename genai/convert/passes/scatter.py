"""TensorScatter written with ScatterND, for execution providers that have no kernel for it.

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
from genai.convert.nodes import Nodes, take_over


def lower_scatter(model: ir.Model) -> int:
    """Replace every TensorScatter in place; returns how many there were."""
    graph, nodes = model.graph, Nodes(model.graph)
    scatters = [node for node in graph if node.op_type == "TensorScatter"]
    if scatters:
        places = _places(graph, nodes)
        for node in scatters:
            old = node.outputs[0]
            take_over(
                old, nodes.typed("ScatterND", node.inputs[0], places, node.inputs[1], dtype=old.dtype, shape=old.shape)
            )
        graph.sort()
        passes.RemoveUnusedNodesPass()(model)
    return len(scatters)


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
        nodes.op("Unsqueeze", inputs[contract.WRITE_INDICES], nodes.integers([1])),
        nodes.op("Unsqueeze", nodes.op("Range", zero, tokens, one), nodes.integers([0])),
    )
    rows = nodes.op("Unsqueeze", nodes.op("Range", zero, batch, one), nodes.integers([1]))
    last = nodes.integers([2])
    parts = [nodes.op("Unsqueeze", part, last) for part in (nodes.op("Expand", rows, shape), slots)]
    return nodes.op("Concat", *parts, axis=2)
