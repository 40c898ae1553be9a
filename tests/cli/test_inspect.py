"""`genai inspect` and what it reports."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from genai import contract
from genai.errors import ContractError, ModelNotFoundError
from genai.inspect import GraphReport, inspect
from genai.inspect.page import page
from tests.build import tiny
from tests.cli.conftest import Genai
from tests.mixed_package import mixed_package
from tests.random_model import RandomSource, build_random_model
from tests.tiny_package import tiny_package

NAME = "smollm2-135m-instruct"


def report_of(tmp_path: Path, nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto]) -> GraphReport:
    """Inspect a graph of these nodes and weights, from x to y."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph(nodes, "g", [x], [y], weights)
    opsets = [helper.make_opsetid("", 23), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), tmp_path / "m.onnx")
    return inspect(tmp_path / "m.onnx")


def weight(name: str, size: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.zeros(size, np.float32), name)


@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_built_graph_follows_the_contract(tmp_path: Path, precision: str) -> None:
    build_random_model(tmp_path, precision)  # type: ignore[arg-type]
    report = inspect(tmp_path)
    assert report.differences == ()
    assert report.shape
    assert (report.shape.caches, report.shape.output.width) == (contract.uniform_caches(2, 32), 101)
    assert report.cache_bytes_per_token == 2 * 2 * 32 * 4
    assert report.operators["ai.onnx"]["TensorScatter"] == 4
    assert set(report.operators) == ({"ai.onnx"} if precision == "f32" else {"ai.onnx", "com.microsoft"})
    stored = (tmp_path / "model.onnx.data").stat().st_size
    assert stored * 0.5 < report.num_weight_bytes <= stored + 1000  # pages are padded; small constants lie in the graph
    if precision == "f32":
        sizes = report.weight_bytes
        assert sizes["embedding"] == 4 * 101 * 64
        assert sizes["attention"] == 4 * 2 * (64 * 128 + 64 * 64)
        assert sizes["mlp"] == 4 * 2 * 3 * 96 * 64
        assert sizes["norms"] == 4 * 5 * 64
        assert sizes["head"] == 0  # tied
        assert sizes["other"] < 1000


def test_what_windows_keep_is_told(run_genai: Genai, tmp_path: Path) -> None:
    """Of the four caches of 128 bytes all belong to windows, and a row keeps 1,616 tokens of each."""
    folder = tiny_package(tmp_path / "tiny", weights_of=partial(RandomSource, sliding_window=16))
    report = inspect(folder)
    assert (report.cache_bytes_per_token, report.window_bytes_per_token, report.window_slots) == (512, 512, 1616)
    assert report.cache_bytes(2, 1000) == 2 * 1000 * 512
    assert report.cache_bytes(2, 4000) == 2 * 1616 * 512
    note = "layers 0, 1: keys of 32, values of 32, of at most 1,616 tokens alone"
    assert list(report.cache_notes) == [note]
    shown = run_genai("inspect", folder, "--batch", "2", "--length", "4000").out
    assert "windows: 2 × 1616 tokens of 512 B" in shown
    assert "4000 tokens" not in shown
    cache = json.loads(run_genai("inspect", folder, "--batch", "2", "--length", "4000", "--json").out)["cache"]
    assert (cache["bytes"], cache["window_bytes_per_token"]) == (2 * 1616 * 512, 512)
    assert note in page(report)


def test_layers_that_differ_and_a_reserved_slot_are_told(run_genai: Genai, tmp_path: Path) -> None:
    folder = mixed_package(tmp_path / "mixed", has_sinks=True)
    report = inspect(folder)
    assert report.differences == ()
    assert report.cache_bytes_per_token == (12 + 6 + 10) * 4
    notes = [
        "layer 0: keys of 12, values of 6",
        "layers 1, 2: no cache of its own",
        "layer 3: keys of 10",
        "each row begins with a reserved slot (row_start.bin)",
    ]
    assert list(report.cache_notes) == notes
    shown = run_genai("inspect", folder).out
    assert all(f"cache: {note}" in shown for note in notes)
    cache = json.loads(run_genai("inspect", folder, "--json").out)["cache"]
    assert (cache["widths"], cache["reserved_slots"]) == ({"key_cache.0": 12, "value_cache.0": 6, "key_cache.3": 10}, 1)
    assert all(note in page(report) for note in notes)
    build_random_model(tmp_path)
    assert inspect(tmp_path).cache_notes == ()


def test_external_data_is_not_read_but_looked_for(tmp_path: Path) -> None:
    build_random_model(tmp_path, "f32")
    data = tmp_path / "model.onnx.data"
    data.write_bytes(data.read_bytes()[:100])
    assert "has 100 bytes of at least" in inspect(tmp_path).differences[0]
    data.unlink()
    report = inspect(tmp_path)
    assert report.differences == ("the external data file 'model.onnx.data' is missing",)
    assert report.num_weight_bytes > 0


def test_other_graph_says_what_differs(tmp_path: Path) -> None:
    report = report_of(tmp_path, [helper.make_node("Identity", ["x"], ["y"])], [])
    assert report.shape is None
    assert report.cache_bytes_per_token is None
    assert "key_cache.0" in report.differences[0]
    assert report.differences[1] == "opset 23, not 24: TensorScatter is not in it"


def test_weights_are_told_by_name_then_by_their_users(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Gather", ["table", "x"], ["a"]),
        helper.make_node("MatMul", ["a", "onnx::MatMul_7"], ["b"], name="/model/layers.0/self_attn/q_proj/MatMul"),
        helper.make_node("RMSNormalization", ["b", "scale"], ["c"]),
        helper.make_node("Add", ["c", "model.layers.0.mlp.up_proj.weight"], ["d"]),
        helper.make_node("MatMul", ["d", "lm_head.weight"], ["e"]),
        helper.make_node("Add", ["e", "mystery"], ["f"]),
        helper.make_node("MatMul", ["f", "model.layers.1.linear_attn.out_proj"], ["y"]),
    ]
    names = ["table", "onnx::MatMul_7", "scale", "model.layers.0.mlp.up_proj.weight", "lm_head.weight", "mystery"]
    names.append("model.layers.1.linear_attn.out_proj")
    report = report_of(tmp_path, nodes, [weight(name, 2**number) for number, name in enumerate(names)])
    told = {part: size for part, size in report.weight_bytes.items() if size}
    assert told == {"embedding": 4, "attention": 8, "mlp": 32, "norms": 16, "head": 64, "other": 128, "recurrence": 256}


def test_packed_types_and_subgraphs(tmp_path: Path) -> None:
    body = helper.make_graph([helper.make_node("Relu", ["x"], ["z"])], "b", [], [
        helper.make_tensor_value_info("z", TensorProto.FLOAT, [1])
    ])  # fmt: skip
    nodes = [
        helper.make_node("If", ["flag"], ["y"], then_branch=body, else_branch=body),
        helper.make_node("MatMulNBits", ["x", "lm_head.blocks"], ["w"], domain="com.microsoft"),
    ]
    packed = helper.make_tensor("lm_head.blocks", TensorProto.UINT4, [5], [1, 2, 3, 4, 5])
    flag = numpy_helper.from_array(np.array(True), "flag")
    report = report_of(tmp_path, nodes, [packed, flag])
    assert report.operators == {"ai.onnx": {"If": 1, "Relu": 2}, "com.microsoft": {"MatMulNBits": 1}}
    assert report.weight_bytes["head"] == 3


@pytest.mark.parametrize("location", ["../secret", "/etc/passwd", "a/../../secret"])
def test_external_data_outside_of_the_folder_is_not_looked_at(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(b"")
    tensor = weight("w", 1)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    (tmp_path / "model").mkdir()
    report = report_of(tmp_path / "model", [helper.make_node("Add", ["x", "w"], ["y"])], [tensor])
    assert report.differences[-1] == f"the external data file {location!r} would lie outside of the model's folder"


def test_sizes_that_cannot_be(tmp_path: Path) -> None:
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[2, -1])
    with pytest.raises(ContractError, match=r"tensor 'w' has a negative dimension: \[2, -1\]"):
        report_of(tmp_path, [helper.make_node("Add", ["x", "w"], ["y"])], [tensor])
    tensor = onnx.TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[10**9, 10**9, 10**9])
    report = report_of(tmp_path, [helper.make_node("Add", ["x", "w"], ["y"])], [tensor])
    assert report.num_weight_bytes == 4 * 10**27


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("past_key_values.0.key", ["B", 3, "P", 64], 3 * 64 * 4),
        ("key_cache.0", ["B", 128, 32], 32 * 4),
        ("past", ["L", "B", "H", "P", 64], None),
        ("past_key_values.0.key", ["B", "H", "P", "D"], None),
        ("attention_mask", ["B", 3, "P", 64], None),
    ],
)
def test_caches_of_other_graphs(tmp_path: Path, name: str, shape: list[int | str], expected: int | None) -> None:
    given = helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
    graph = helper.make_graph([helper.make_node("Identity", [name], ["y"])], "g", [given], [
        helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)
    ])  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)], ir_version=10), tmp_path / "m.onnx")
    assert inspect(tmp_path).cache_bytes_per_token == expected


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x08\x07", bytes(range(256))])
def test_damaged_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ContractError, match=r"m\.onnx is not"):
        inspect(tmp_path / "m.onnx")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    report_of(tmp_path, [helper.make_node("Add", ["x", "weight_a"], ["y"])], [weight("weight_a", 1)])
    content = (tmp_path / "m.onnx").read_bytes()
    (tmp_path / "m.onnx").write_bytes(content.replace(b"weight_a", b"weight_\xff"))
    with pytest.raises(ContractError, match="a name in it is not UTF-8"):
        inspect(tmp_path / "m.onnx")


def test_folders(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"holds no \.onnx files"):
        inspect(tmp_path)
    for name in ("a.onnx", "b.onnx"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(ModelNotFoundError, match=r"Give one of a\.onnx, b\.onnx"):
        inspect(tmp_path)


def test_page(run_genai: Genai, tmp_path: Path) -> None:
    build_random_model(tmp_path, "f32")
    outcome = run_genai("inspect", tmp_path, "--html", tmp_path / "page.html", "--batch", 3, "--json")
    assert json.loads(outcome.out)["contract"]["followed"]
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert text.startswith("<!doctype html>")
    assert "3 rows" in text
    outcome = run_genai("inspect", tmp_path, "--html", tmp_path / "no" / "page.html")
    assert (outcome.code, "page.html cannot be written: No such file" in outcome.err) == (2, True)


def test_page_with_fusions(run_genai: Genai, tmp_path: Path) -> None:
    report_of(tmp_path, [helper.make_node("RMSNormalization", ["x", "w"], ["y"])], [weight("w", 1)])
    outcome = run_genai("inspect", tmp_path / "m.onnx", "--fusions", "--html", tmp_path / "page.html")
    assert outcome.code == 0, outcome.err
    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Not looked for" not in text
    assert "1 of 1" in text


def test_known_name(run_genai: Genai, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build_random_model(tmp_path, "f32")
    monkeypatch.setattr("genai.models.package", lambda name, progress: tmp_path if name == NAME else None)
    assert "contract: followed" in run_genai("inspect", NAME).out


def test_command(run_genai: Genai, tmp_path: Path) -> None:
    build_random_model(tmp_path, "f32")
    text = run_genai("inspect", tmp_path, "--batch", 4, "--length", 100).out
    assert "contract: followed" in text
    assert "cache: 4 × 100 tokens of 512 B   205 kB" in text
    found = json.loads(run_genai("inspect", tmp_path, "--batch", 4, "--length", 100, "--json").out)
    assert found["cache"]["bytes"] == 4 * 100 * 512
    assert found["contract"] == {"followed": True, "differences": []}
    assert found["weight_bytes"]["total"] == sum(
        size for part, size in found["weight_bytes"].items() if part != "total"
    )


def test_experts_are_told(tmp_path: Path, run_genai: Genai) -> None:
    pytest.importorskip("torch")
    options = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "head_dim": 16}
    package = tiny.build(tiny.make_model("qwen3_moe", **options), tmp_path, precision="int8")
    told, experts = run_genai("inspect", package).out, inspect(package).experts
    assert experts is not None
    assert f"experts: {experts.summary}" in told
    assert "weights: experts" in told
    assert json.loads(run_genai("inspect", package, "--json").out)["experts"]["active_bytes"] == experts.active_bytes


def test_the_same_bits_are_told_where_the_package_runs(
    tmp_path: Path, run_genai: Genai, monkeypatch: pytest.MonkeyPatch
) -> None:
    built, written = tiny_package(tmp_path / "built"), mixed_package(tmp_path / "mixed", has_sinks=False)
    assert "the same bits in any batch, on this machine: kept" in run_genai("inspect", built, "--bits").out
    assert json.loads(run_genai("inspect", written, "--bits", "--json").out)["same_bits"] == "not kept"
    with monkeypatch.context() as patch:
        patch.setattr("genai.runtime.same_bits.PADDINGS", ())
        assert "on this machine: not kept" in run_genai("inspect", built, "--bits").out, "asked anew"
    assert "on this machine: kept" in run_genai("inspect", built, "--bits").out
    (built / "genai.json").unlink()
    refused = run_genai("inspect", built / "model.onnx", "--bits")
    assert (refused.code, "lies in no package" in refused.err) == (2, True)
