"""Models of newer opsets: the reference evaluator says what they mean; what opset 24 lacks is written out."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from genai.config import ModelConfig
from genai.convert import convert
from genai.errors import UnsupportedModelError
from tests.build import tiny

HIDDEN, HEADS, KV_HEADS, SIZE = 32, 4, 2, 8
WINDOW = 4


def decoder(opset: int, extra: list[onnx.NodeProto], **attention: object) -> onnx.ModelProto:
    """One layer: Attention that joins its own past, and a gated MLP by SwiGLU; extra: nodes between it and the head."""
    rng = np.random.default_rng(0)
    sizes = {"embed": (tiny.VOCAB_SIZE, HIDDEN), "q": (HIDDEN, HEADS * SIZE), "k": (HIDDEN, KV_HEADS * SIZE)}
    sizes |= {"v": (HIDDEN, KV_HEADS * SIZE), "o": (HEADS * SIZE, HIDDEN), "gate": (HIDDEN, 48), "up": (HIDDEN, 48)}
    sizes |= {"down": (48, HIDDEN), "head": (HIDDEN, tiny.VOCAB_SIZE)}
    weights = [
        numpy_helper.from_array((rng.standard_normal(shape) / shape[0] ** 0.4).astype(np.float32), name)
        for name, shape in sizes.items()
    ]
    node = helper.make_node
    past = ["past_key_values.0.key", "past_key_values.0.value"]
    presents = ["present.0.key", "present.0.value"]
    nodes = [
        node("Gather", ["embed", "input_ids"], ["x"]),
        *(node("MatMul", ["x", name], [f"x{name}"]) for name in ("q", "k", "v")),
        node(
            "Attention", ["xq", "xk", "xv", "", *past], ["y", *presents], q_num_heads=HEADS, kv_num_heads=KV_HEADS,
            **attention,
        ),
        node("MatMul", ["y", "o"], ["z"]),
        node("Add", ["x", "z"], ["h"]),
        node("MatMul", ["h", "gate"], ["g"]),
        node("MatMul", ["h", "up"], ["u"]),
        node("SwiGLU", ["g", "u"], ["gu"], alpha=1.5),
        node("MatMul", ["gu", "down"], ["d"]),
        *extra,
        node("MatMul", ["d", "head"], ["logits"]),
    ]  # fmt: skip
    floats = [(name, ["B", KV_HEADS, "P", SIZE]) for name in past]
    made = [(name, ["B", KV_HEADS, "S", SIZE]) for name in presents]
    graph = helper.make_graph(
        nodes,
        "decoder",
        [
            helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["B", "T"]),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in floats),
        ],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", "T", tiny.VOCAB_SIZE]),
            *(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in made),
        ],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=13)


def write(model: onnx.ModelProto, folder: Path, **config: object) -> Path:
    folder.mkdir()
    onnx.save(model, folder / "model.onnx")
    (folder / "config.json").write_text(json.dumps({"max_position_embeddings": 64} | config))
    tiny.write_tokenizer(folder)
    return folder


@pytest.mark.parametrize(
    ("window", "attention"),
    [
        (WINDOW, {"is_causal": 1, "left_window_size": WINDOW - 1}),
        (WINDOW, {"right_window_size": 0, "left_window_size": WINDOW - 1}),
        (None, {"is_causal": 1, "softcap": 2.0, "scale": 0.3}),
    ],
)
def test_attention_with_windows_and_gates(tmp_path: Path, window: int | None, attention: dict[str, object]) -> None:
    """Opset 28, with a window, or with a cap: the standard's own evaluator is the oracle."""
    model = decoder(28, [], **attention)
    report = convert(write(model, tmp_path / "source", sliding_window=window), tmp_path / "package")
    assert report.agreement.is_exact
    assert report.notes[0] == "opset 28 became 24, for which there are kernels"
    assert ModelConfig.read(tmp_path / "package").sliding_window == window
    tokens = tiny.tokens(15)
    empty = np.zeros((1, KV_HEADS, 0, SIZE), np.float32)
    feeds = {"input_ids": np.array([tokens]), "past_key_values.0.key": empty, "past_key_values.0.value": empty}
    wanted = ReferenceEvaluator(model).run(["logits"], feeds)[0][0]
    with tiny.loaded(tmp_path / "package") as llm:
        np.testing.assert_allclose(llm.logits(tokens), wanted, atol=1e-4, rtol=0)  # measured: 1e-6


@pytest.mark.parametrize(
    ("extra", "attention", "message"),
    [
        ([], {"is_causal": 0, "right_window_size": 2}, "no mask hides other keys"),
        (
            [helper.make_node("CumProd", ["d", "one"], ["e"])],
            {"is_causal": 1},
            "is CumProd of opset 28, which opset 24 does",
        ),
    ],
)
def test_what_opset_24_cannot_say(
    tmp_path: Path, extra: list[onnx.NodeProto], attention: dict[str, object], message: str
) -> None:
    model = decoder(28, extra, **attention)
    model.graph.initializer.append(numpy_helper.from_array(np.array(1), "one"))
    with pytest.raises(UnsupportedModelError, match=message):
        convert(write(model, tmp_path / "source"), tmp_path / "package")


@pytest.mark.parametrize("version", [24, 28])
def test_gates_in_functions(tmp_path: Path, version: int) -> None:
    """A function that has the gate, of the model's own operator set or of an older one: the same package."""
    plain = decoder(28, [], is_causal=1)
    model = onnx.ModelProto.FromString(plain.SerializeToString())
    gate = next(node for node in model.graph.node if node.op_type == "SwiGLU")
    body = [helper.make_node("Swish", ["a"], ["c"], alpha=1.5), helper.make_node("Mul", ["c", "b"], ["y"])]
    opsets = [helper.make_opsetid("", version)]
    model.functions.append(helper.make_function("mine", "Gate", ["a", "b"], ["y"], body, opsets))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    gate.op_type, gate.domain = "Gate", "mine"
    del gate.attribute[:]
    logits = []
    for name, each in (("plain", plain), ("functions", model)):
        convert(write(each, tmp_path / name), tmp_path / f"{name}.package")
        with tiny.loaded(tmp_path / f"{name}.package") as llm:
            logits.append(llm.logits(tiny.tokens(9)))
    np.testing.assert_array_equal(*logits)


def test_functions_of_another_operator_set(tmp_path: Path) -> None:
    model = decoder(28, [], is_causal=1)
    body = [helper.make_node("Neg", ["a"], ["y"])]
    model.functions.append(helper.make_function("mine", "Turn", ["a"], ["y"], body, [helper.make_opsetid("", 13)]))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.graph.node.insert(1, helper.make_node("Turn", ["x"], ["turned"], domain="mine"))
    with pytest.raises(UnsupportedModelError, match="functions cannot be put in place of their calls"):
        convert(write(model, tmp_path / "source"), tmp_path / "package")
