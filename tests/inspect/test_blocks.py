"""Layers found in graphs as exporters write them, and what their pictures hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from genai.inspect.blocks import Block, blocks_of
from genai.inspect.layers import layer_of
from genai.inspect.svg import picture
from tests.random_model import build_random_model


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("/model/layers.3/self_attn/MatMul", 3),
        ("model.layers.12.mlp.up_proj.weight", 12),
        ("layer.0/Split:1", 0),
        ("transformer.h.7.attn.c_attn.weight", 7),
        ("/transformer/h.7/attn/Split", 7),
        ("past_key_values.3.key", 3),
        ("present.3.value", 3),
        ("updated_value_cache.29", 29),
        ("model.decoder.layers.1", 1),
        ("transformer: Wrapper/blocks.5: Block", 5),
        ("cache_layers", None),
        ("model.norm.weight", None),
        ("path.4", None),
        ("layers.1234567", None),
        ("MatMul_12", None),
    ],
)
def test_names(name: str, layer: int | None) -> None:
    assert layer_of(name) == layer


def titles(block: Block, loop: str | None) -> list[tuple[str, str]]:
    return [
        (block.boxes[arrow.source].title, block.boxes[arrow.target].title)
        for arrow in block.arrows
        if arrow.loop == loop
    ]


def test_a_built_layer(tmp_path: Path) -> None:
    (block,) = blocks_of(onnx.load(build_random_model(tmp_path), load_external_data=False).graph)
    assert (block.title, block.count) == ("layer 0 of 2", 1)
    assert block.notes == ("layer 1: +1 Add, +2 GatherND, +2 Unsqueeze",)
    assert titles(block, "in place") == [
        ("updated_key_cache.0", "key_cache.0"),
        ("updated_value_cache.0", "value_cache.0"),
    ]
    plain = titles(block, None)
    for arrow in (
        ("key_cache.0", "TensorScatter"),
        ("TensorScatter", "updated_key_cache.0"),
        ("RotaryEmbedding", "Attention"),
    ):
        assert arrow in plain
    assert sum(box.role == "product" for box in block.boxes) == 4
    assert "up_proj" in next(box.detail for box in block.boxes if "gate_proj" in box.detail)
    assert ("Mul", "goes on") not in plain


def graph_of(nodes: list[onnx.NodeProto], inputs: list[str], outputs: list[str], **weights: int) -> onnx.GraphProto:
    def value(name: str) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])

    tensors = [numpy_helper.from_array(np.zeros(size, np.float32), name) for name, size in weights.items()]
    return helper.make_graph(nodes, "g", list(map(value, inputs)), list(map(value, outputs)), tensors)


def test_repeated_layers_are_drawn_once() -> None:
    nodes, last = [helper.make_node("Gather", ["table", "ids"], ["x0"])], "x0"
    for layer in range(5):
        past, present = f"past_key_values.{layer}.key", f"present.{layer}.key"
        nodes += [
            helper.make_node("Concat", [past, last], [present], axis=1),
            helper.make_node("Relu" if layer == 3 else "Tanh", [present], [f"y{layer}"]),
            helper.make_node("Add", [f"y{layer}", last], [f"x{layer + 1}"]),
        ]
        last = f"x{layer + 1}"
    nodes.append(helper.make_node("Identity", [last], ["logits"]))
    pasts = [f"past_key_values.{layer}.key" for layer in range(5)]
    presents = [f"present.{layer}.key" for layer in range(5)]
    (block,) = blocks_of(graph_of(nodes, ["ids", *pasts], ["logits", *presents], table=1))
    assert (block.title, block.count) == ("layers 0–2 of 5", 3)
    assert block.notes == ("layer 3: +1 Relu, −1 Tanh", "layer 4: +1 Identity")
    assert titles(block, "copied") == [("present.0.key", "past_key_values.0.key")]


def test_shapes_are_not_drawn_but_what_is_made_of_them_is() -> None:
    nodes = [
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "i"], ["n"]),
        helper.make_node("Range", ["i", "n", "i"], ["r"]),
        helper.make_node("Add", ["x", "r"], ["y"]),
    ]
    (block,) = blocks_of(graph_of(nodes, ["x"], ["y"], i=1))
    assert (block.title, block.num_shapes) == ("the whole graph", 2)
    assert [box.title for box in block.boxes if box.is_operator] == ["Range", "Add"]


def test_what_branches_read_is_read_by_what_holds_them() -> None:
    def branch(kind: str, name: str) -> onnx.GraphProto:
        inner = [helper.make_node("Tanh", ["a"], [f"{name}0"]), helper.make_node(kind, [f"{name}0", "w"], [name])]
        return helper.make_graph(inner, name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1])])

    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("If", ["is"], ["y"], then_branch=branch("MatMul", "t"), else_branch=branch("Add", "e")),
    ]
    (block,) = blocks_of(graph_of(nodes, ["x", "is"], ["y"], w=1))
    assert titles(block, None) == [("x", "Relu"), ("is", "MatMul"), ("Relu", "MatMul"), ("MatMul", "y")]
    assert [(box.role, box.detail) for box in block.boxes if box.title == "MatMul"] == [("product", "one of 2 forms")]


def test_long_graphs_are_cut() -> None:
    nodes = [helper.make_node("Relu", [f"v{n}"], [f"v{n + 1}"]) for n in range(1000)]
    (block,) = blocks_of(graph_of(nodes, ["v0"], ["v1000"]))
    assert block.num_hidden == 1000 - sum(box.is_operator for box in block.boxes) > 800
    assert block.boxes[-1].title == "goes on"


def test_operators_of_many_inputs() -> None:
    many = [f"x{n}" for n in range(3000)]
    nodes = [helper.make_node("Sum", many, ["a"]), helper.make_node("Sum", ["a", *many], ["y"])]
    (block,) = blocks_of(graph_of(nodes, many, ["y"]))
    assert len(block.boxes) == 400
    assert len(picture(block, "g")) < 500_000


def test_graphs_that_are_none() -> None:
    """Circles, values from nowhere, names twice, no names at all: a picture of whatever is there."""
    nodes = [
        helper.make_node("A", ["b", "nowhere", ""], ["a"], name="layers.1"),
        helper.make_node("B", ["a", "b"], ["b", ""], name="layers.1"),
        helper.make_node("C", ["c"], ["c", "a"], name="layers.2"),
        helper.make_node("", [], [], name="layers.99999"),
    ]
    for block in blocks_of(graph_of(nodes, ["a"], ["a", "b"])):
        assert all(arrow.source < len(block.boxes) and arrow.target < len(block.boxes) for arrow in block.arrows)
