"""Recurrent layers of foreign graphs on the contract's states: the standard's operators, and ONNX Runtime's like them.

    x ───────► CausalConvWithState ─►      conv_state.i ─► Concat with x ─► products of shifted inputs ─► activation
    past ──┘          └─► present                                └─► each row's last inputs: updated_conv_state.i
    q, k, v ─► LinearAttention ─►          LinearAttention of ONNX Runtime, which has kernels; padding's decay and rate
    past ──┘          └─► present          are zeros, or its decay and values: it leaves recurrent_state.i as it is

States are float32, and so is what is computed from them, whatever the graph's type is.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from genai import contract
from genai.build.graph import CONTRIB
from genai.build.source import FloatArray
from genai.build.steps import convolved
from genai.contract import State
from genai.convert.attributes import Allowed, check_attributes
from genai.convert.emit import ContractGraph
from genai.convert.nodes import Nodes, store
from genai.convert.sources.past_present.interface import StateInput
from genai.convert.values import constant
from genai.errors import UnsupportedModelError

OPERATORS = ("LinearAttention", "CausalConvWithState")
_FLOAT = ir.DataType.FLOAT
_RULES = {"linear": (), "gated": ("decay",), "delta": ("beta",), "gated_delta": ("decay", "beta")}
"""What each update rule reads beside queries, keys and values."""
_ACTIVATIONS = ("none", "silu", "swish")
_READ = {"LinearAttention": {"q_num_heads", "kv_num_heads", "scale", "chunk_size"}, "CausalConvWithState": set[str]()}
_ALLOWED: dict[str, Allowed] = {
    "LinearAttention": {"update_rule": tuple(_RULES), "state_window": (0,)},
    "CausalConvWithState": {
        "activation": _ACTIVATIONS, "channels_last": (0, 1), "state_window": (0,), "ndim": (1,), "dilation": (1,),
        "state_update_capacity": (0,), "state_channels_last": (-1,), "state_length": (0,), "input_channels": (0,),
        "input_channel_offset": (0,),
    },
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrence:
    """A recurrent operator, and the graph's input and output that are its state. shape: the state's, of one row."""

    node: ir.Node
    past: ir.Value
    present: ir.Value
    shape: tuple[int, ...]

    @property
    def is_conv(self) -> bool:
        """Whether it is a short convolution."""
        return self.node.op_type == "CausalConvWithState"

    @property
    def as_input(self) -> StateInput:
        """Its part of the graph's interface."""
        return StateInput(past=self.past.name or "", present=self.present.name or "", shape=self.shape)

    def state(self, layer: int) -> State:
        """The contract's state in its place; a convolution's has the channels last."""
        if not self.is_conv:
            return State(contract.recurrent_state(layer), self.shape, "float32")
        shape = self.shape if _is_channels_last(self.node) else self.shape[::-1]
        return State(contract.conv_state(layer), shape, "float32")


def find_recurrences(graph: ir.Graph) -> tuple[Recurrence, ...]:
    """The recurrent operators of a graph, in order. Raises: UnsupportedModelError for those with no equivalent."""
    return tuple(_recurrence(node) for node in graph if is_recurrent(node))


def is_recurrent(node: ir.Node) -> bool:
    """Whether a node is a recurrent operator that is read here."""
    return node.op_type in OPERATORS and node.domain in ("", CONTRIB)


def numbered(graph: ir.Graph, attentions: Collection[ir.Node], found: Sequence[Recurrence]) -> dict[ir.Node, int]:
    """The layers' numbers by their nodes: an attention each, or a convolution and what follows it."""
    kinds = dict.fromkeys(attentions, "Attention") | {each.node: each.node.op_type for each in found}
    numbers: dict[ir.Node, int] = {}
    layer, here = -1, {"Attention"}
    for node in graph:
        if (kind := kinds.get(node)) is None:
            continue
        if kind in here or "Attention" in (kind, *here):
            layer, here = layer + 1, set()
        here.add(kind)
        numbers[node] = layer
    return numbers


def write_recurrence(target: ContractGraph, layer: int, found: Recurrence) -> None:
    """Put an operator onto the contract.

    Raises: UnsupportedModelError for an input that is missing, and for a convolution's weights that are computed.
    """
    with target.nodes.layer(layer):
        if found.is_conv:
            _write_conv(target, contract.conv_state(layer), found)
        else:
            _write_linear_attention(target, contract.recurrent_state(layer), found)


def _recurrence(node: ir.Node) -> Recurrence:
    check_attributes(node, _READ[node.op_type], _ALLOWED[node.op_type])
    past = node.inputs[3] if len(node.inputs) > 3 else None
    present = node.outputs[1] if len(node.outputs) > 1 else None
    if past is None or not past.is_graph_input() or present is None or not present.is_graph_output():
        raise UnsupportedModelError(
            f"{node.name} ({node.op_type}) does not read its state from an input of the graph and return it as an "
            "output: a text could not be continued"
        )
    if len(past.uses()) > 1 or present.uses():
        raise UnsupportedModelError(f"{node.name} ({node.op_type}) is not alone in reading the state {past.name!r}")
    shape = tuple(size for size in (past.shape or ())[1:] if isinstance(size, int) and size > 0)
    rank = 3 if node.op_type == "CausalConvWithState" else 4
    if past.shape is None or len(past.shape) != rank or len(shape) != rank - 1:
        raise UnsupportedModelError(f"the state {past.name!r} has shape {past.shape}: all but its rows must be fixed")
    return Recurrence(node=node, past=past, present=present, shape=shape)


def _is_channels_last(node: ir.Node) -> bool:
    return node.attributes.get_int("channels_last", 0) == 1


def _given(node: ir.Node, index: int, name: str) -> ir.Value:
    """An input that must be there."""
    value = node.inputs[index] if len(node.inputs) > index else None
    if value is None:
        raise UnsupportedModelError(f"{node.name} ({node.op_type}) lacks its input {name}")
    return value


def _write_conv(target: ContractGraph, state: str, found: Recurrence) -> None:
    nodes, node = target.nodes, found.node
    given, dtype = _given(node, 0, "input"), _given(node, 0, "input").dtype
    x = nodes.cast(given if _is_channels_last(node) else _swapped(nodes, given), _FLOAT)
    factors = _factors(target.graph, node, found)
    inputs = nodes.op("Concat", target.cache(state), x, axis=1)
    updated = nodes.typed("GatherND", inputs, target.tail(len(factors)), batch_dims=1, dtype=_FLOAT)
    target.set_updated(state, updated)
    result = convolved(nodes, inputs, x, factors)
    if (bias := _bias(target.graph, node)) is not None:
        result = nodes.op("Add", result, bias)
    if node.attributes.get_string("activation", "none") != "none":
        result = nodes.op("Mul", result, nodes.op("Sigmoid", result))
    result.dtype, result.shape = _FLOAT, x.shape
    _replace_conv(nodes, node, result if dtype is None else nodes.cast(result, dtype))


def _factors(graph: ir.Graph, node: ir.Node, found: Recurrence) -> list[ir.Value]:
    """What each of a channel's last inputs is multiplied by, the oldest first: stored, [channels] float32 each."""
    weight = _given(node, 1, "weight")
    values = constant(weight)
    channels, rest = found.shape[::-1] if _is_channels_last(node) else found.shape
    if values is None or values.shape != (channels, 1, rest + 1):
        raise UnsupportedModelError(
            f"{node.name} has weights {weight.name!r} {weight.shape} that are no fixed numbers "
            f"[{channels}, 1, {rest + 1}], as its state says"
        )
    columns = np.asarray(values, np.float32)[:, 0].T
    return [_stored(graph, f"{weight.name}.{place}", column) for place, column in enumerate(columns)]


def _stored(graph: ir.Graph, name: str, values: FloatArray) -> ir.Value:
    """A stored array, once for all layers that share it."""
    stored = graph.initializers.get(name)
    return stored if stored is not None else store(graph, name, ir.tensor(values.copy(), name=name))


def _bias(graph: ir.Graph, node: ir.Node) -> ir.Value | None:
    """The bias in float32, None where it adds nothing."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        return None
    values = constant(bias)
    if values is None:
        raise UnsupportedModelError(f"{node.name} has a bias {bias.name!r} that is no fixed numbers")
    if not values.any():
        return None
    return _stored(graph, f"{bias.name}.float32", np.asarray(values, np.float32))


def _swapped(nodes: Nodes, x: ir.Value) -> ir.Value:
    """[B, channels, T] -> [B, T, channels]: what it was before it was swapped, where it was."""
    node = x.producer()
    if node is not None and _is_swap(node) and node.inputs[0] is not None:
        return node.inputs[0]
    shape = None if x.shape is None else [x.shape[0], x.shape[2], x.shape[1]]
    return nodes.typed("Transpose", x, perm=[0, 2, 1], dtype=x.dtype, shape=shape)


def _replace_conv(nodes: Nodes, node: ir.Node, result: ir.Value) -> None:
    """Whatever read the convolution reads its result [B, T, channels], swapped again where that is asked for."""
    old = node.outputs[0]
    if not _is_channels_last(node):
        for user in [user for user in old.consumers() if _is_swap(user)]:
            user.outputs[0].replace_all_uses_with(result)
        result = nodes.typed("Transpose", result, perm=[0, 2, 1], dtype=result.dtype, shape=old.shape)
    old.replace_all_uses_with(result)


def _is_swap(node: ir.Node) -> bool:
    is_transpose = node.op_type == "Transpose" and node.domain == ""
    return is_transpose and list(node.attributes.get_ints("perm", ())) == [0, 2, 1]


def _write_linear_attention(target: ContractGraph, state: str, found: Recurrence) -> None:
    nodes, node = target.nodes, found.node
    rule = node.attributes.get_string("update_rule", "gated_delta")
    q, k, v = (nodes.cast(_given(node, place, name), _FLOAT) for place, name in enumerate(("query", "key", "value")))
    places = {"decay": 4, "beta": 5}
    factors = {name: _own(target, _given(node, places[name], name)) for name in _RULES[rule]}
    result, updated = nodes.ops(
        "LinearAttention", q, k, v if "beta" in factors else _own(target, v), target.cache(state),
        factors.get("decay"), factors.get("beta"), num_outputs=2, domain=CONTRIB, update_rule=rule,
        q_num_heads=node.attributes.get_int("q_num_heads", 0), kv_num_heads=node.attributes.get_int("kv_num_heads", 0),
        scale=node.attributes.get_float("scale", 0.0),
    )  # fmt: skip
    target.model.opset_imports[CONTRIB] = target.graph.opset_imports[CONTRIB] = 1
    target.set_updated(state, updated)
    old, dtype = node.outputs[0], _given(node, 0, "query").dtype
    result.dtype, result.shape = _FLOAT, old.shape
    old.replace_all_uses_with(result if dtype is None else nodes.cast(result, dtype))


def _own(target: ContractGraph, x: ir.Value) -> ir.Value:
    """Values [B, T, …] of a row's own tokens in float32, zeros for padding."""
    nodes = target.nodes
    zero = nodes.constant(0.0, np.float32)
    return nodes.typed("Where", target.own_tokens(), nodes.cast(x, _FLOAT), zero, dtype=_FLOAT, shape=x.shape)
