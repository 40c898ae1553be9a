"""A decoder whose keys and values have heads of different sizes, as multi-head latent attention has them."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from tests.build import tiny
from tests.convert.recurrent import HEADS, HIDDEN, KV_HEADS, SIZE, VALUE_SIZE, Form, Graph, present_of

OWN, JOINED = 0, 1
"""The layers: one whose Attention operator joins its past itself, one written out, with heads that are not grouped."""
PASTS = {
    f"past_key_values.{layer}.{part}": (heads, 0, size)
    for layer, heads in ((OWN, KV_HEADS), (JOINED, HEADS))
    for part, size in (("key", SIZE), ("value", VALUE_SIZE))
}


def decoder() -> onnx.ModelProto:
    """Two layers and a head."""
    graph = Graph(Form(opset=24))
    x = graph.op("Gather", graph.weight("embed", tiny.VOCAB_SIZE, HIDDEN), "input_ids")
    for attend in (_own, _joined):
        x = graph.op("Add", x, graph.linear(attend(graph, x), HEADS * VALUE_SIZE, HIDDEN))
    graph.nodes.append(helper.make_node("MatMul", [x, graph.weight("head", HIDDEN, tiny.VOCAB_SIZE)], ["logits"]))
    return graph.model(PASTS)


def empty() -> dict[str, np.ndarray]:
    """Caches of one row that holds no tokens."""
    return {name: np.zeros((1, *shape), np.float32) for name, shape in PASTS.items()}


def _own(graph: Graph, x: str) -> str:
    heads = ((HEADS, SIZE), (KV_HEADS, SIZE), (KV_HEADS, VALUE_SIZE))
    q, k, v = (graph.linear(x, HIDDEN, count * size) for count, size in heads)
    pasts = [f"past_key_values.{OWN}.{part}" for part in ("key", "value")]
    result = graph.name("y")
    graph.nodes.append(
        helper.make_node(
            "Attention", [q, k, v, "", *pasts], [result, *map(present_of, pasts)], is_causal=1, q_num_heads=HEADS,
            kv_num_heads=KV_HEADS,
        )
    )  # fmt: skip
    return result


def _joined(graph: Graph, x: str) -> str:
    q, k, v = (_heads(graph, graph.linear(x, HIDDEN, HEADS * size), size) for size in (SIZE, SIZE, VALUE_SIZE))
    pasts = [f"past_key_values.{JOINED}.{part}" for part in ("key", "value")]
    for past, new in zip(pasts, (k, v), strict=True):
        graph.nodes.append(helper.make_node("Concat", [past, new], [present_of(past)], axis=2))
    keys, values = map(present_of, pasts)
    scores = graph.op("MatMul", q, graph.op("Transpose", keys, perm=[0, 1, 3, 2]))
    scores = graph.op("Mul", scores, graph.number(SIZE**-0.5))
    scores = graph.op("Where", _future(graph, pasts[0]), graph.number(-1e9), scores)
    result = graph.op("MatMul", graph.op("Softmax", scores, axis=-1), values)
    joined = graph.op("Transpose", result, perm=[0, 2, 1, 3])
    return graph.op("Reshape", joined, graph.integers([0, 0, HEADS * VALUE_SIZE]))


def _heads(graph: Graph, x: str, size: int) -> str:
    split = graph.op("Reshape", x, graph.integers([0, 0, HEADS, size]))
    return graph.op("Transpose", split, perm=[0, 2, 1, 3])


def _future(graph: Graph, past: str) -> str:
    """[T, S]: whether a key is newer than a query."""
    held = graph.op("Gather", graph.op("Shape", past), graph.integer(2))
    end = graph.op("Add", held, graph.op("Gather", graph.op("Shape", "input_ids"), graph.integer(1)))
    zero, one = graph.integer(0), graph.integer(1)
    queries, keys = graph.op("Range", held, end, one), graph.op("Range", zero, end, one)
    return graph.op("Less", graph.op("Unsqueeze", queries, graph.integers([1])), keys)
