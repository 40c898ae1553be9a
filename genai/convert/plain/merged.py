"""Merged decoders: one `If` whose branches are the decoder without and with past keys and values.

    If(use_cache_branch)  then: the decoder with past     ─►  the nodes of that branch, in the graph itself
                          else: the decoder without it

With a past of no tokens the first branch computes what the second does. Written by optimum until its version 1.x.
"""

from __future__ import annotations

import onnx_ir as ir

from genai.convert.nodes import take_over
from genai.convert.probing import ancestors

USE_CACHE = "use_cache_branch"
"""The input that chooses, as optimum calls it; true is the branch with past."""
_BRANCHES = ("then_branch", "else_branch")


def unfold(graph: ir.Graph) -> bool:
    """Put the branch with past in place of a merged decoder's `If`, in place; False where there is none."""
    node = next((node for node in graph if _is_choice(node)), None)
    if node is None:
        return False
    name = next((name for name in _BRANCHES if _reads_past(graph, node.attributes[name].as_graph())), None)
    if name is None:
        return False
    condition, branch = node.inputs[0], node.attributes[name].as_graph()
    made = list(branch.outputs)
    _rename_apart(graph, branch)
    for value in list(branch.initializers.values()):
        branch.initializers.pop(value.name or "")
        graph.register_initializer(value)
    for inner in list(branch):
        branch.remove(inner)
        graph.insert_before(node, inner)
    branch.outputs.clear()
    for old, new in zip(node.outputs, made, strict=True):
        take_over(old, new)
    graph.remove(node, safe=True)
    if condition is not None and not condition.uses():
        graph.inputs.remove(condition)
    return True


def _is_choice(node: ir.Node) -> bool:
    """Whether a node chooses its branch by an input of the graph."""
    if node.op_type != "If" or node.domain != "" or not set(_BRANCHES) <= node.attributes.keys():
        return False
    condition = node.inputs[0]
    found = set() if condition is None else ancestors([condition], set())
    return any(value.is_graph_input() and value.dtype == ir.DataType.BOOL for value in found)


def _reads_past(graph: ir.Graph, branch: ir.Graph) -> bool:
    """Whether a branch reads, for more than its shape, a float input of four dimensions."""
    caches = {value for value in graph.inputs if value.shape is not None and len(value.shape) == 4}
    return any(value in caches for node in branch.all_nodes() if node.op_type != "Shape" for value in node.inputs)


def _rename_apart(graph: ir.Graph, branch: ir.Graph) -> None:
    """Give values and nodes of a branch names that the graph does not have."""
    outer = [*graph.inputs, *graph.initializers.values(), *(output for node in graph for output in node.outputs)]
    taken = {value.name for value in outer}
    for value in [*branch.initializers.values(), *(output for node in branch for output in node.outputs)]:
        if value.name in taken:
            value.name = f"{value.name}.with_past"
