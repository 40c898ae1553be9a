"""What could be fused in a file, on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest

from genai.cli.main import exit_code
from genai.convert.fusions import survey
from tests.convert.fusions.graphs import model_of, operators
from tests.convert.fusions.test_rms import SIGNATURE, TORCH, WEIGHTS

OPTIMUM = Path(__file__).parents[1] / "data" / "optimum"
ATTENTION = """
    scores = MatMul(q, k)
    masked = Add(scores, bias)
    weights = Softmax<axis=-1>(masked)
    y = MatMul(weights, v)
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    model = model_of(SIGNATURE, TORCH.replace("axes = [-1]", "axes = [1]"), weights=WEIGHTS)
    ir.save(model, tmp_path / "model.onnx", external_data="model.onnx.data", size_threshold_bytes=0)
    return tmp_path / "model.onnx"


def test_text(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["inspect", str(file), "--fusions"]) == 0
    assert capsys.readouterr().out.splitlines()[-5:] == [
        "fusions",
        "RMSNormalization: 0 of 1",
        "  mean: expected a mean over the last axis, found axes [1]",
        "RotaryEmbedding: none found",
        "Attention: none found",
    ]


def test_json(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["inspect", str(file), "--fusions", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["fusions"]
    assert found["RMSNormalization"]["sites"][0]["reason"]["found"] == "axes [1]"


def test_without_the_flag_nothing_is_surveyed(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["inspect", str(file), "--json"]) == 0
    assert "fusions" not in json.loads(capsys.readouterr().out)


def test_a_graph_that_cannot_be_followed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nodes = [onnx.helper.make_node("Neg", ["b"], ["a"]), onnx.helper.make_node("Neg", ["a"], ["b"])]
    value = onnx.helper.make_tensor_value_info("a", onnx.TensorProto.FLOAT, [1])
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [value])), tmp_path / "m.onnx")
    assert exit_code(["inspect", str(tmp_path / "m.onnx"), "--fusions"]) == 2
    assert "m.onnx" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(path.name for path in OPTIMUM.iterdir()))
def test_real_exports_have_no_site_that_differs(name: str) -> None:
    """torch's tracing exporter, by way of optimum."""
    report = survey(ir.load(OPTIMUM / name / "model.onnx"))
    assert all(site.matched for site in report.sites), report.as_text()
    counts = {pattern: len(report.of(pattern)) for pattern in report.patterns}
    num_layers = counts["Attention"]
    assert num_layers > 0
    has_layer_norms = name in ("bloom", "gpt2", "opt")
    assert counts["RotaryEmbedding"] == (0 if has_layer_norms else 2 * num_layers)
    norms = {"gemma2": 4, "gemma3": 6, "qwen3": 4}.get(name, 2)
    assert counts["RMSNormalization"] == (0 if has_layer_norms else norms * num_layers + 1)


def test_nodes_without_their_inputs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    kinds = ("ReduceMean", "Concat", "Softmax", "Slice", "Reshape", "Transpose", "Gemm", "MatMul")
    nodes = [onnx.helper.make_node(kind, [], [f"v{index}"]) for index, kind in enumerate(kinds)]
    value = onnx.helper.make_tensor_value_info("v0", onnx.TensorProto.FLOAT, [1])
    model = onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [value]))
    onnx.save(model, tmp_path / "m.onnx")
    assert exit_code(["inspect", str(tmp_path / "m.onnx"), "--fusions"]) in (0, 2)
    assert "unexpected" not in capsys.readouterr().err


def test_attention_in_parts_and_as_an_operator() -> None:
    signature = "float[B, T, D] q, float[B, D, S] k, float[B, S, D] v, float[T, S] bias => float[B, T, D] y"
    model = model_of(signature, ATTENTION)
    (site,) = survey(model).of("Attention")
    assert site.matched
    assert not site.is_present
    assert operators(model) == ["MatMul", "Add", "Softmax", "MatMul"]
    model = model_of("float[B, 2, T, 8] q => float[B, 2, T, 8] y", "y = Attention(q, q, q)")
    (site,) = survey(model).of("Attention")
    assert site.is_present


def test_guards_that_fork_again_and_again_are_looked_at_once() -> None:
    steps = "\n".join(f"    w{step + 1} = Where(b, w{step}, w{step})" for step in range(60))
    body = f"""
        scores = MatMul(q, q)
        w0 = Softmax<axis=-1>(scores)
    {steps}
        y = Identity(w60)
    """
    assert survey(model_of("float[B, 4, 4] q, bool[4, 4] b => float[B, 4, 4] y", body)).of("Attention") == ()


@pytest.mark.parametrize(
    "body",
    [
        "y = Softmax<axis=-1>(q)",
        ATTENTION.replace("MatMul(weights, v)", "MatMul(v, weights)"),
        ATTENTION.replace("MatMul(q, k)", "Mul(q, k)"),
    ],
)
def test_a_softmax_that_does_not_attend(body: str) -> None:
    signature = "float[B, 4, 4] q, float[B, 4, 4] k, float[B, 4, 4] v, float[4, 4] bias => float[B, 4, 4] y"
    assert survey(model_of(signature, body)).of("Attention") == ()
