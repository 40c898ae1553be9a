"""One way of writing what exporters write differently, before anything is recognised.

Functions are inlined, constants become initializers, attributes become inputs where newer operator sets have them
there, shapes of hidden states are taken from the inputs.
"""

from __future__ import annotations

import logging

import onnx_ir as ir
import onnx_ir.passes.common as passes

from genai import contract
from genai.convert.nodes import Nodes, store
from genai.convert.untrusted.reading import check_elements
from genai.errors import UnsupportedModelError

OLDEST_OPSET = 13
_REDUCTIONS = {
    "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum",
    "ReduceLogSumExp",
}  # fmt: skip


def normalize(model: ir.Model) -> None:
    """Rewrite a model in place into the form that recognition reads.

    Raises: UnsupportedModelError for operator sets that are too old or too new.
    """
    opset = model.opset_imports.get("", 0)
    if not opset >= OLDEST_OPSET:
        raise UnsupportedModelError(f"the model uses opset {opset}; at least {OLDEST_OPSET} is needed: export it again")
    inline(model)
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    passes.IdentityEliminationPass()(model)
    if opset < 18:
        _attributes_to_inputs(model.graph)
    model.opset_imports[""] = model.graph.opset_imports[""] = max(opset, contract.OPSET - 1) if opset < 25 else opset
    _name_nodes(model.graph)
    infer_shapes(model)
    _drop_idle_casts(model.graph)
    _simplify_shapes(model.graph)
    passes.CommonSubexpressionEliminationPass()(model)
    passes.RemoveUnusedNodesPass()(model)


def inline(model: ir.Model) -> None:
    """Put the nodes of a model's functions in place of their calls.

    Raises: UnsupportedModelError for functions of another operator set than the model's.
    """
    opset = model.opset_imports.get("", 0)
    for function in model.functions.values():
        if min(opset, function.opset_imports.get("", opset)) >= contract.OPSET:  # from there on all mean the same
            function.opset_imports[""] = opset
    try:
        passes.InlinePass()(model)
    except ValueError as error:
        raise UnsupportedModelError(f"the model's functions cannot be put in place of their calls: {error}") from None


def infer_shapes(model: ir.Model) -> None:
    """Give values their shapes, as far as they can be told, and turn sizes that are the same always into constants.

    Raises: UnsupportedModelError for a graph whose shapes contradict each other.
    """
    from onnx_shape_inference import infer_symbolic_shapes

    try:
        infer_symbolic_shapes(model, warn_on_missing=False)
    except Exception as error:  # its own errors, and what a damaged graph makes of its arithmetic
        raise UnsupportedModelError(f"the graph's shapes cannot be told: {str(error)[:300]}") from None
    for value in [output for node in model.graph for output in node.outputs]:
        if value.shape is not None:
            check_elements([size for size in value.shape if isinstance(size, int)], value.name or "")
        if value.const_value is not None and not value.is_graph_output() and value.producer() is not None:
            value.replace_all_uses_with(store(model.graph, f"{value.name}.known", value.const_value))
    passes.RemoveUnusedNodesPass()(model)


def refine_shapes(model: ir.Model) -> None:
    """Infer shapes anew with ONNX's own inference, which sees more once some dimensions are known.

    A graph that it cannot follow stays as it is.
    """
    log = logging.getLogger("onnx_ir")
    level = log.level
    log.setLevel(logging.CRITICAL)  # it prints the traceback of what it could not infer
    try:
        passes.ShapeInferencePass(check_type=False, data_prop=True)(model)
    finally:
        log.setLevel(level)


def _attributes_to_inputs(graph: ir.Graph) -> None:
    """Opset 18 made the axes of reductions an input, and wants Split to say how many parts it has."""
    nodes = Nodes(graph)
    for node in list(graph):
        if node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type in _REDUCTIONS and "axes" in node.attributes:
            axes = node.attributes.pop("axes").as_ints()
            node.resize_inputs(2)
            node.replace_input_with(1, nodes.integers(axes))
        elif node.op_type == "Split" and len(node.inputs) == 1:
            node.attributes["num_outputs"] = ir.AttrInt64("num_outputs", len(node.outputs))
    graph.sort()


def _name_nodes(graph: ir.Graph) -> None:
    """Reports speak of nodes by name."""
    for index, node in enumerate(graph):
        if not node.name:
            node.name = f"{node.op_type}.{index}"


def _drop_idle_casts(graph: ir.Graph) -> None:
    """Casts to the type that a value has."""
    for node in [node for node in graph if node.op_type == "Cast" and node.domain == ""]:
        source, result = node.inputs[0], node.outputs[0]
        is_idle = source is not None and source.dtype is not None and source.dtype == node.attributes.get_int("to", 0)
        if source is not None and is_idle and not result.is_graph_output():
            result.replace_all_uses_with(source)
            graph.remove(node, safe=True)


def _simplify_shapes(graph: ir.Graph) -> None:
    """`Shape` of a hidden state asks for the sizes of the inputs instead: bookkeeping then reads no weights."""
    nodes = Nodes(graph)
    places = {
        dim: (value, axis)
        for value in sorted(graph.inputs, key=lambda value: value.name == "input_ids")  # the last one counts
        for axis, dim in enumerate(value.shape or ())
        if isinstance(dim, ir.SymbolicDim) and dim.value is not None
    }
    for node in [node for node in graph if node.op_type == "Shape" and node.domain == ""]:
        source, result = node.inputs[0], node.outputs[0]
        if source is None or source.shape is None or source.is_graph_input() or result.is_graph_output():
            continue
        dims = source.shape[node.attributes.get_int("start", 0) : node.attributes.get_int("end", None)]
        if dims and all(isinstance(dim, int) or dim in places for dim in dims):
            sizes = [
                nodes.integers([dim])
                if isinstance(dim, int)
                else nodes.op("Shape", places[dim][0], start=places[dim][1], end=places[dim][1] + 1)
                for dim in dims
            ]
            result.replace_all_uses_with(nodes.typed("Concat", *sizes, axis=0, dtype=ir.DataType.INT64))
    graph.sort()
