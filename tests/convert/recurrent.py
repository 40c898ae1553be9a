"""Decoders with the standard's recurrent operators, as an exporter would write them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.build import tiny

HIDDEN, HEADS, KV_HEADS, SIZE, KERNEL = 32, 4, 2, 8, 4
VALUE_SIZE = 6
CONTRIB = "com.microsoft"

Array = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How a graph's recurrence is written. domain, opset: the operators'; rule, scale: attributes of LinearAttention.

    by_element: decay for each element of a key, not for each head; one_rate: for all heads; activation: the
    convolution's; has_bias: of it; channels_first: with transposes around it.
    """

    domain: str = ""
    opset: int = 27
    rule: str = "gated_delta"
    scale: float = 0.0
    by_element: bool = False
    one_rate: bool = False
    activation: str = "silu"
    has_bias: bool = True
    channels_first: bool = True

    @property
    def attributes(self) -> dict[str, object]:
        """Those of LinearAttention."""
        return {"q_num_heads": HEADS, "kv_num_heads": KV_HEADS, "update_rule": self.rule, "scale": self.scale}


STATES = {
    "past_conv.0": (HEADS * SIZE + KV_HEADS * (SIZE + VALUE_SIZE), KERNEL - 1),
    "past_recurrent.0": (KV_HEADS, SIZE, VALUE_SIZE),
    "past_key_values.1.key": (KV_HEADS, 0, SIZE),
    "past_key_values.1.value": (KV_HEADS, 0, SIZE),
    "past_conv.2": (HIDDEN, KERNEL - 1),
}


def present_of(past: str) -> str:
    """The output that continues an input."""
    return past.replace("past_key_values", "present").replace("past_", "present_")


PRESENTS = {name: present_of(name) for name in STATES}


def decoder(form: Form) -> onnx.ModelProto:
    """Three layers: a convolution and LinearAttention, Attention that joins its own past, a convolution alone."""
    graph = Graph(form)
    x = graph.op("Gather", graph.weight("embed", tiny.VOCAB_SIZE, HIDDEN), "input_ids")
    x = graph.op("Add", x, graph.linear(_recurrence(graph, x), HEADS * VALUE_SIZE, HIDDEN))
    x = graph.op("Add", x, graph.linear(_attention(graph, x), HEADS * SIZE, HIDDEN))
    x = graph.op("Add", x, graph.linear(graph.conv(x, 2, HIDDEN), HIDDEN, HIDDEN))
    graph.nodes.append(helper.make_node("MatMul", [x, graph.weight("head", HIDDEN, tiny.VOCAB_SIZE)], ["logits"]))
    return graph.model()


def _recurrence(graph: Graph, x: str) -> str:
    sizes = [HEADS * SIZE, KV_HEADS * SIZE, KV_HEADS * VALUE_SIZE]
    mixed = graph.conv(graph.linear(x, HIDDEN, sum(sizes)), 0, sum(sizes))
    parts = [graph.name("part") for _ in sizes]
    graph.nodes.append(helper.make_node("Split", [mixed, graph.integers(sizes)], parts, axis=-1))
    rule, width = graph.form.rule, KV_HEADS * (SIZE if graph.form.by_element else 1)
    decay = graph.op("Neg", graph.op("Softplus", graph.linear(x, HIDDEN, width))) if "gated" in rule else ""
    rate = ""
    if "delta" in rule:
        rate = graph.op("Sigmoid", graph.linear(x, HIDDEN, 1 if graph.form.one_rate else KV_HEADS))
        parts[1] = graph.op("Mul", parts[1], graph.number(0.3))
    inputs = [*parts, "past_recurrent.0", decay, rate]
    while not inputs[-1]:
        inputs.pop()
    result = graph.name("y")
    graph.nodes.append(
        helper.make_node(
            "LinearAttention", inputs, [result, PRESENTS["past_recurrent.0"]], domain=graph.form.domain,
            **graph.form.attributes,
        )
    )  # fmt: skip
    return result


def _attention(graph: Graph, x: str) -> str:
    q, k, v = (graph.linear(x, HIDDEN, heads * SIZE) for heads in (HEADS, KV_HEADS, KV_HEADS))
    pasts = [f"past_key_values.1.{part}" for part in ("key", "value")]
    result = graph.name("y")
    graph.nodes.append(
        helper.make_node(
            "Attention", [q, k, v, "", *pasts], [result, *(PRESENTS[name] for name in pasts)], is_causal=1,
            q_num_heads=HEADS, kv_num_heads=KV_HEADS,
        )
    )  # fmt: skip
    return result


class Graph:
    """Nodes and weights of a graph that is being written."""

    def __init__(self, form: Form) -> None:
        self.form = form
        self.nodes: list[onnx.NodeProto] = []
        self._weights: dict[str, onnx.TensorProto] = {}
        self._rng = np.random.default_rng(0)
        self._num_names = 0

    def name(self, kind: str) -> str:
        self._num_names += 1
        return f"{kind}.{self._num_names}"

    def op(self, kind: str, *inputs: str, **attributes: object) -> str:
        result = self.name(kind)
        self.nodes.append(helper.make_node(kind, inputs, [result], **attributes))
        return result

    def weight(self, name: str, *shape: int) -> str:
        values = self._rng.standard_normal(shape) / shape[0] ** 0.4
        self._weights[name] = numpy_helper.from_array(values.astype(np.float32), name)
        return name

    def linear(self, x: str, num_inputs: int, num_outputs: int) -> str:
        return self.op("MatMul", x, self.weight(self.name("weight"), num_inputs, num_outputs))

    def integers(self, numbers: Sequence[int]) -> str:
        return self._stored(np.array(numbers, np.int64))

    def integer(self, value: int) -> str:
        return self._stored(np.array(value, np.int64))

    def number(self, value: float) -> str:
        return self._stored(np.array(value, np.float32))

    def conv(self, x: str, layer: int, channels: int) -> str:
        """A short convolution [B, T, channels] with a state."""
        weight = self.weight(self.name("conv"), channels, 1, KERNEL)
        bias = self.weight(self.name("bias"), channels) if self.form.has_bias else ""
        past, result = f"past_conv.{layer}", self.name("conv")
        layout: dict[str, object] = {} if self.form.channels_first else {"channels_last": 1}
        x = self.op("Transpose", x, perm=[0, 2, 1]) if self.form.channels_first else x
        self.nodes.append(
            helper.make_node(
                "CausalConvWithState", [x, weight, bias, past], [result, PRESENTS[past]], domain=self.form.domain,
                activation=self.form.activation, **layout,
            )
        )  # fmt: skip
        return self.op("Transpose", result, perm=[0, 2, 1]) if self.form.channels_first else result

    def model(self, states: Mapping[str, Sequence[int]] = STATES) -> onnx.ModelProto:
        def declared(name: str, shape: Sequence[int], length: str) -> onnx.ValueInfoProto:
            sizes = [length if size == 0 else size for size in shape]
            if "conv" in name and not self.form.channels_first:
                sizes.reverse()
            return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["B", *sizes])

        graph = helper.make_graph(
            self.nodes,
            "decoder",
            [
                helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["B", "T"]),
                *(declared(name, shape, "P") for name, shape in states.items()),
            ],
            [
                helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", "T", tiny.VOCAB_SIZE]),
                *(declared(present_of(name), shape, "S") for name, shape in states.items()),
            ],
            list(self._weights.values()),
        )
        opsets = [helper.make_opsetid("", self.form.opset)]
        opsets += [helper.make_opsetid(self.form.domain, 1)] if self.form.domain else []
        return helper.make_model(graph, opset_imports=opsets, ir_version=11)

    def _stored(self, array: npt.NDArray[np.generic]) -> str:
        name = self.name("constant")
        self._weights[name] = numpy_helper.from_array(array, name)
        return name


def empty(form: Form) -> dict[str, Array]:
    """Caches and states of one row that holds no tokens."""
    shapes = {
        name: shape[::-1] if "conv" in name and not form.channels_first else shape for name, shape in STATES.items()
    }
    return {name: np.zeros((1, *shape), np.float32) for name, shape in shapes.items()}
