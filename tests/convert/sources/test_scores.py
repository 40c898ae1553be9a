"""What stands between products and softmax: a cap is understood, biases, sinks and other masks are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from genai.convert import ConvertOptions, convert
from genai.convert.passes.scatter import lower_scatter
from genai.convert.untrusted.reading import read_onnx
from genai.errors import UnsupportedModelError
from tests.build import tiny

DATA = Path(__file__).parents[1] / "data" / "optimum"
Insert = Callable[[ir.Graph, ir.Value], ir.Value]


def op(graph: ir.Graph, kind: str, *inputs: ir.Value, **attributes: int | list[int]) -> ir.Value:
    node = ir.node(kind, inputs, attributes)
    graph.append(node)
    return node.outputs[0]


def number(graph: ir.Graph, value: float | list[int] | int) -> ir.Value:
    array = np.asarray(value, np.float32 if isinstance(value, float) else np.int64)
    name = f"number{len(graph.initializers)}"
    tensor = ir.tensor(array, name=name)
    result = ir.Value(name=name, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.register_initializer(result)
    return result


def capped(graph: ir.Graph, raw: ir.Value) -> ir.Value:
    """2 · tanh(raw / 2)"""
    cap = number(graph, 2.0)
    return op(graph, "Mul", op(graph, "Tanh", op(graph, "Div", raw, cap)), cap)


def sloped(graph: ir.Graph, raw: ir.Value) -> ir.Value:
    """Scores that rise with a key's place, which is as good as falling with its distance: ALiBi as BLOOM writes it."""
    return op(graph, "Add", raw, op(graph, "Mul", places_of(graph, raw), number(graph, 0.1)))


def biased(graph: ir.Graph, raw: ir.Value) -> ir.Value:
    """Scores that rise ever faster with a key's place."""
    places = places_of(graph, raw)
    return op(graph, "Add", raw, op(graph, "Mul", op(graph, "Mul", places, places), number(graph, 0.1)))


def places_of(graph: ir.Graph, raw: ir.Value) -> ir.Value:
    """The keys' places, as floats."""
    length = op(graph, "Squeeze", op(graph, "Shape", raw, start=3, end=4))
    return op(graph, "Cast", op(graph, "Range", number(graph, 0), length, number(graph, 1)), to=ir.DataType.FLOAT)


def halved(graph: ir.Graph, weights: ir.Value) -> ir.Value:
    return op(graph, "Mul", weights, number(graph, 0.5))


def squared(graph: ir.Graph, weights: ir.Value) -> ir.Value:
    return op(graph, "Mul", weights, weights)


def with_prefix(graph: ir.Graph, mask: ir.Value) -> ir.Value:
    """The first three tokens are seen by all."""
    length = op(graph, "Squeeze", op(graph, "Shape", mask, start=3, end=4))
    places = op(graph, "Range", number(graph, 0), length, number(graph, 1))
    return op(graph, "Where", op(graph, "Less", places, number(graph, 3)), number(graph, 0.0), mask)


def in_chunks(graph: ir.Graph, mask: ir.Value) -> ir.Value:
    """Nothing is seen of what lies before a query's own chunk of six positions."""
    zero, one, size = number(graph, 0), number(graph, 1), number(graph, 6)
    length, count = (op(graph, "Squeeze", op(graph, "Shape", mask, start=axis, end=axis + 1)) for axis in (3, 2))
    keys = op(graph, "Div", op(graph, "Range", zero, length, one), size)
    queries = op(graph, "Range", op(graph, "Sub", length, count), length, one)
    chunks = op(graph, "Unsqueeze", op(graph, "Div", queries, size), number(graph, [1]))
    return op(graph, "Where", op(graph, "Less", keys, chunks), number(graph, -3e38), mask)


def with_sink(graph: ir.Graph, scores: ir.Value) -> ir.Value:
    """A further column that takes part in the softmax."""
    column = op(graph, "Slice", scores, number(graph, [0]), number(graph, [1]), number(graph, [3]))
    return op(graph, "Concat", scores, column, axis=3)


def without_sink(graph: ir.Graph, weights: ir.Value) -> ir.Value:
    return op(graph, "Slice", weights, number(graph, [0]), number(graph, [-1]), number(graph, [3]))


def changed(tmp_path: Path, **inserts: Insert) -> Path:
    """A copy of a Llama with something inserted at each softmax, by place: raw, mask, scores, after."""
    folder = tmp_path / "source"
    shutil.copytree(DATA / "llama", folder)
    tiny.write_tokenizer(folder)
    model = ir.load(folder / "model.onnx")
    graph = model.graph
    for softmax in [node for node in graph if node.op_type == "Softmax"]:
        scores = softmax.inputs[0]
        raw, mask = scores.producer().inputs
        places = {"raw": raw, "mask": mask, "scores": scores, "after": softmax.outputs[0]}
        for place, insert in inserts.items():
            users = list(places[place].uses())
            new = insert(graph, places[place])
            for user, index in users:
                user.replace_input_with(index, new)
    graph.sort()
    ir.save(model, folder / "model.onnx")
    return folder


def test_a_cap_on_scores(tmp_path: Path) -> None:
    report = convert(changed(tmp_path, raw=capped), tmp_path / "package")
    assert report.agreement.is_good
    attributes = [
        {attribute.name: attribute.f for attribute in node.attribute}
        for node in onnx.load(tmp_path / "package" / "model.onnx").graph.node
        if node.op_type == "Attention"
    ]
    assert [item["softcap"] for item in attributes] == pytest.approx([2.0] * 2, rel=1e-5)


def test_slopes_and_a_factor_on_weights(tmp_path: Path) -> None:
    report = convert(changed(tmp_path, raw=sloped, after=halved), tmp_path / "package")
    assert report.agreement.is_good
    assert report.agreement.is_exact


def test_chunks_of_positions(tmp_path: Path) -> None:
    """As Llama 4 has them; the prompts that are compared are longer than several."""
    folder = changed(tmp_path, mask=in_chunks)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"attention_chunk_size": 5 + 2}))
    report = convert(folder, tmp_path / "package")
    assert report.agreement.is_exact
    assert report.agreement.num_tokens > 100
    (folder / "config.json").write_text(json.dumps(config | {"attention_chunk_size": 32}))
    with pytest.raises(UnsupportedModelError, match="says a window of 32 tokens, the graph has 6"):
        convert(folder, tmp_path / "package")


@pytest.mark.parametrize(
    ("places", "match"),
    [
        ({"raw": biased}, "the first head's newest keys get 0, -"),
        ({"after": squared}, "more than a factor"),
        ({"mask": with_prefix}, "prefix"),
        ({"scores": with_sink, "after": without_sink}, "found Slice"),
    ],
    ids=["bias", "squares", "prefix", "sink"],
)
def test_what_has_no_equivalent(tmp_path: Path, places: dict[str, Insert], match: str) -> None:
    with pytest.raises(UnsupportedModelError, match=match):
        convert(changed(tmp_path, **places), tmp_path / "package")


def test_scatter_nd_takes_the_place_of_tensor_scatter(tmp_path: Path) -> None:
    """The caches keep their names; the runtime decodes with both (see test_past_present)."""
    convert(changed(tmp_path), tmp_path / "package", ConvertOptions())
    model = read_onnx(tmp_path / "package" / "model.onnx")
    names = [value.name for value in model.graph.outputs]
    assert lower_scatter(model) == 4
    kinds = [node.op_type for node in model.graph]
    assert (kinds.count("ScatterND"), kinds.count("TensorScatter")) == (4, 0)
    assert [value.name for value in model.graph.outputs] == names
    assert {value.producer().op_type for value in model.graph.outputs if value.name != "logits"} == {"ScatterND"}
