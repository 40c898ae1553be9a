"""FlexAttention: written out it gives what onnx.reference gives; what its modifiers do is lowered, or refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from genai.convert import convert
from genai.convert.flex import loaded, write_out
from genai.errors import UnsupportedModelError
from tests.build import tiny

DATA = Path(__file__).parent / "data" / "optimum" / "llama"
Modifier = Callable[["Body"], str]
SLOPES = (0.5, 0.25, 0.125, 0.0625)


class Body:
    """A modifier that is being written: values by name, from `x` [B, H, T, S] float32; mask: of the graph around it."""

    def __init__(self, mask: str = "") -> None:
        self.mask = mask
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []

    def op(self, kind: str, *inputs: str, **attributes: int) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [f"v{len(self.nodes)}"], **attributes))
        return str(self.nodes[-1].output[0])

    def number(self, value: object, dtype: type = np.float32) -> str:
        self.weights.append(numpy_helper.from_array(np.asarray(value, dtype), f"c{len(self.weights)}"))
        return str(self.weights[-1].name)

    def distance(self) -> str:
        """Each key's place, less the query's: [T, S] int64. The last query stands at the last key."""
        zero, one = self.number(0, np.int64), self.number(1, np.int64)
        tokens, keys = (self.op("Squeeze", self.op("Shape", "x", start=axis, end=axis + 1)) for axis in (2, 3))
        queries = self.op("Range", self.op("Sub", keys, tokens), keys, one)
        return self.op("Sub", self.op("Range", zero, keys, one), self.op("Unsqueeze", queries, one))

    def where(self, is_seen: str, value: str) -> str:
        return self.op("Where", is_seen, value, self.number(-np.inf))

    def graph(self, result: str) -> onnx.GraphProto:
        values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in ("x", result)]
        return helper.make_graph(self.nodes, "modifier", values[:1], values[1:], self.weights)


def causal(body: Body, value: str = "x") -> str:
    return body.where(body.op("LessOrEqual", body.distance(), body.number(0, np.int64)), value)


def masked(body: Body) -> str:
    """By the mask that the graph makes of its attention_mask: a value from outside."""
    return body.op("Add", "x", body.mask)


def window(body: Body) -> str:
    """The newest 5 keys."""
    return body.where(body.op("Greater", body.distance(), body.number(-5, np.int64)), causal(body))


def softcap(body: Body) -> str:
    cap = body.number(2.0)
    return causal(body, body.op("Mul", body.op("Tanh", body.op("Div", "x", cap)), cap))


def alibi(body: Body) -> str:
    distance = body.op("Cast", body.distance(), to=TensorProto.FLOAT)
    return causal(body, body.op("Add", "x", body.op("Mul", distance, body.number(np.reshape(SLOPES, (4, 1, 1))))))


def capped_alibi(body: Body) -> str:
    cap = body.number(2.0)
    bent = body.op("Mul", body.op("Tanh", body.op("Div", "x", cap)), cap)
    distance = body.op("Cast", body.distance(), to=TensorProto.FLOAT)
    return causal(body, body.op("Add", bent, body.op("Mul", distance, body.number(np.reshape(SLOPES, (4, 1, 1))))))


def relative(body: Body) -> str:
    """A bias by the distance's logarithm, as T5's buckets have it."""
    distance = body.op("Cast", body.op("Abs", body.distance()), to=TensorProto.FLOAT)
    return causal(body, body.op("Sub", "x", body.op("Log", body.op("Add", distance, body.number(1.0)))))


def nearly_alibi(body: Body) -> str:
    """Of the gentlest head no more than what 600 tokens make: little beside what the steep ones get."""
    distance = body.op("Cast", body.distance(), to=TensorProto.FLOAT)
    parts = [(distance, (*SLOPES[:3], 0)), (body.op("Max", distance, body.number(-600.0)), (0, 0, 0, 2.0**-11))]
    steep, gentle = (body.op("Mul", far, body.number(np.reshape(slopes, (4, 1, 1)))) for far, slopes in parts)
    return causal(body, body.op("Add", "x", body.op("Add", steep, gentle)))


def prefix(body: Body) -> str:
    """Three first tokens that all see."""
    zero, one = body.number(0, np.int64), body.number(1, np.int64)
    keys = body.op("Range", zero, body.op("Squeeze", body.op("Shape", "x", start=3, end=4)), one)
    is_first = body.op("Less", keys, body.number(3, np.int64))
    return body.op("Where", is_first, "x", causal(body))


def halved(body: Body) -> str:
    return body.op("Mul", "x", body.number(0.5))


def every_other(body: Body) -> str:
    """Weights of keys at odd places dropped."""
    zero, one, two = (body.number(value, np.int64) for value in range(3))
    keys = body.op("Range", zero, body.op("Squeeze", body.op("Shape", "x", start=3, end=4)), one)
    return body.op("Where", body.op("Equal", body.op("Mod", keys, two), zero), "x", body.number(0.0))


def written(modifier: Modifier, mask: str = "") -> onnx.GraphProto:
    body = Body(mask)
    return body.graph(modifier(body))


@pytest.mark.parametrize(("kv_heads", "dtype"), [(4, np.float32), (2, np.float32), (1, np.float16)])
def test_written_out_it_is_the_references(kv_heads: int, dtype: type) -> None:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    node = helper.make_node("FlexAttention", ["q", "k", "v"], ["y"], domain="ai.onnx.preview")
    node.attribute.append(helper.make_attribute("score_mod", written(capped_alibi)))
    node.attribute.append(helper.make_attribute("prob_mod", written(every_other)))
    if kv_heads == 2:
        node.attribute.append(helper.make_attribute("scale", 0.75))
    sizes = {"q": (2, 4, 3, 8), "k": (2, kv_heads, 7, 8), "v": (2, kv_heads, 7, 6)}
    inputs = [helper.make_tensor_value_info(name, kind, ["B", None, None, None]) for name in sizes]
    graph = helper.make_graph([node], "flex", inputs, [helper.make_tensor_value_info("y", kind, [None] * 4)])
    opsets = [helper.make_opsetid("", 24), helper.make_opsetid("ai.onnx.preview", 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=11)
    rng = np.random.default_rng(0)
    feeds = {name: rng.standard_normal(size).astype(dtype) for name, size in sizes.items()}
    (expected,) = ReferenceEvaluator(proto).run(None, feeds)
    model = ir.from_proto(proto)
    assert write_out(model) == 1
    assert "ai.onnx.preview" not in model.opset_imports
    got = loaded(model).call(feeds)["y"]
    assert got.dtype == dtype
    # seen: 2e-7 in float32; 5e-4 in float16, whose products are rounded
    np.testing.assert_allclose(got.astype(float), expected.astype(float), atol=1e-6 if dtype is np.float32 else 4e-3)


def flexible(tmp_path: Path, score_mod: Modifier, prob_mod: Modifier | None = None) -> Path:
    """A Llama whose attentions are FlexAttention over its caches, 4 heads on 2."""
    folder = tmp_path / "source"
    shutil.copytree(DATA, folder)
    tiny.write_tokenizer(folder)
    model = onnx.load(folder / "model.onnx")
    makers = {output: node for node in model.graph.node for output in node.output}
    softmaxes = [node for node in model.graph.node if node.op_type == "Softmax"]
    for layer, softmax in enumerate(softmaxes):
        product = makers[makers[softmax.input[0]].input[0]]
        guarded = next(node for node in model.graph.node if node.op_type == "Where" and softmax.output[0] in node.input)
        after = next(node for node in model.graph.node if guarded.output[0] in node.input)
        names = [f"present.{layer}.{part}" for part in ("key", "value")]
        query = makers[product.input[0]].input[0]  # before its scale
        mask = makers[softmax.input[0]].input[1]
        node = helper.make_node(
            "FlexAttention", [query, *names], [after.output[0]], name=f"flex.{layer}", domain="ai.onnx.preview"
        )
        node.attribute.append(helper.make_attribute("score_mod", written(score_mod, mask)))
        if prob_mod is not None:
            node.attribute.append(helper.make_attribute("prob_mod", written(prob_mod)))
        place = list(model.graph.node).index(after)
        model.graph.node.remove(after)
        model.graph.node.insert(place, node)
    model.opset_import.append(helper.make_opsetid("ai.onnx.preview", 1))
    onnx.save(model, folder / "model.onnx")
    return folder


@pytest.mark.parametrize(
    ("score_mod", "prob_mod"),
    [(causal, None), (window, None), (softcap, halved), (alibi, None), (capped_alibi, None)],
    ids=["causal", "window", "softcap, factor", "alibi", "softcap, alibi"],
)
def test_lowered_to_attention(tmp_path: Path, score_mod: Modifier, prob_mod: Modifier | None) -> None:
    """The package's logits are those that onnx.reference has of the FlexAttention graph itself."""
    source, package = flexible(tmp_path, score_mod, prob_mod), tmp_path / "package"
    report = convert(source, package)
    assert report.agreement.is_exact
    tokens = [5, 9, 30, 2, 41, 17, 8, 8, 25, 3, 11, 40]
    feeds = {
        "input_ids": np.array([tokens], np.int64),
        "attention_mask": np.ones((1, 12), np.int64),
        "position_ids": np.arange(12)[None],
    } | {
        f"past_key_values.{layer}.{part}": np.zeros((1, 2, 0, 4), np.float32)
        for layer in (0, 1)
        for part in ("key", "value")
    }
    (expected,) = ReferenceEvaluator(str(source / "model.onnx")).run(["logits"], feeds)
    with tiny.loaded(package) as llm:
        logits = llm.logits(tokens)
    np.testing.assert_allclose(logits, expected[0], atol=1e-4, rtol=0)  # seen: 2e-5
    kinds = [node.op_type for node in onnx.load(package / "model.onnx").graph.node]
    assert (kinds.count("Attention"), kinds.count("Softmax")) == (2, 0)
    sliding = json.loads((package / "genai.json").read_text())["sliding_window"]
    assert sliding == (5 if score_mod is window else None)


def test_a_value_of_the_graph_around_it(tmp_path: Path) -> None:
    tokens = [5, 9, 30, 2, 41, 17, 8, 8]
    logits = []
    for modifier in (masked, causal):
        folder = tmp_path / modifier.__name__
        convert(flexible(folder, modifier), folder / "package")
        with tiny.loaded(folder / "package") as llm:
            logits.append(llm.logits(tokens))
    np.testing.assert_array_equal(*logits)


@pytest.mark.parametrize(
    ("score_mod", "prob_mod", "match"),
    [
        (relative, None, "the first head's newest keys get 0, -0.6931, -1.099, -1.386"),
        (nearly_alibi, None, "no slope by the distance"),
        (prefix, None, "hides other keys than those in the future"),
        (causal, every_other, "more than a factor"),
    ],
    ids=["relative", "slope with an end", "prefix", "dropped weights"],
)
def test_refused(tmp_path: Path, score_mod: Modifier, prob_mod: Modifier | None, match: str) -> None:
    with pytest.raises(UnsupportedModelError, match=match):
        convert(flexible(tmp_path, score_mod, prob_mod), tmp_path / "package")
    assert not (tmp_path / "package").exists()


def test_nodes_of_one_name_and_of_none(tmp_path: Path) -> None:
    """ONNX asks no names of nodes; each modifier keeps its own numbers."""
    for index, names in enumerate((("x", "x"), ("", "FlexAttention"), ("x", "x.1"))):
        source = flexible(tmp_path / str(index), alibi)
        model = onnx.load(source / "model.onnx")
        nodes = [node for node in model.graph.node if node.op_type == "FlexAttention"]
        for node, name in zip(nodes, names, strict=True):
            node.name = name
        onnx.save(model, source / "model.onnx")
        assert write_out(ir.load(source / "model.onnx")) == 2


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"score_mod": onnx.GraphProto(name="same")}, "hides other keys"),
        ({"softmax_precision": 7}, "softmax_precision=7 is no floating-point type"),
    ],
    ids=["a modifier that gives what it takes", "integers"],
)
def test_refused_by_what_it_says(tmp_path: Path, change: dict[str, object], match: str) -> None:
    source = flexible(tmp_path, causal)
    if isinstance(body := change.get("score_mod"), onnx.GraphProto):
        for values in (body.input, body.output):
            values.append(helper.make_tensor_value_info("x", TensorProto.FLOAT, [None] * 4))
    model = onnx.load(source / "model.onnx")
    for node in model.graph.node:
        if node.op_type == "FlexAttention":
            kept = [attribute for attribute in node.attribute if attribute.name not in change]
            del node.attribute[:]
            node.attribute.extend([*kept, *(helper.make_attribute(*item) for item in change.items())])
    onnx.save(model, source / "model.onnx")
    with pytest.raises(UnsupportedModelError, match=match):
        convert(source, tmp_path / "package")
