"""Three rows that are right, inlined and failing, each reproduced by hand; and what happens when a row crashes."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from docs.operators import PAGE
from genai.config import EngineConfig
from genai.conformance import all_cases, oracles, probe
from genai.conformance import check as check_module
from genai.conformance.check import Matrix, Row, check
from genai.conformance.package import cases_of
from genai.conformance.report import as_json, how, lines, markdown, page, told
from genai.errors import ModelError, RuntimeUnavailableError
from genai.runtime.session import Session
from tests.device_double import registered
from tests.random_model import build_random_model
from tests.source_copy import answers, changed_copy

CASES = {case.name: case for case in all_cases()}
RIGHT = "ai.onnx.TensorScatter-24 one token float32"
INLINED = "ai.onnx.Attention-25 window to the left, causal float32"
FAILING = "ai.onnx.SwiGLU-28 alpha 1 float32"


@pytest.fixture(scope="module")
def matrix() -> Matrix:
    return check([CASES[name] for name in (RIGHT, INLINED, FAILING)])


def session(operator: str, opset: int, sizes: dict[str, list[int | str]], dtype: int = TensorProto.FLOAT) -> Session:
    """One node, written without the matrix's own means."""
    kinds = {"write_indices": TensorProto.INT64}
    inputs = [helper.make_tensor_value_info(name, kinds.get(name, dtype), size) for name, size in sizes.items()]
    attributes = {
        "TensorScatter": {"axis": 1},
        "Attention": {"is_causal": 1, "left_window_size": 1, "q_num_heads": 4, "kv_num_heads": 2},
    }.get(operator, {})
    node = helper.make_node(operator, list(sizes), ["y"])
    node.attribute.extend(helper.make_attribute(name, value) for name, value in attributes.items())
    graph = helper.make_graph([node], "one", inputs, [onnx.ValueInfoProto(name="y")])
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=12 if opset > 24 else 11)
    return Session(model.SerializeToString(), EngineConfig(device="cpu", num_threads=1))


def test_right(matrix: Matrix) -> None:
    row = matrix.rows[0]
    assert (how(row.result), told(row.result), row.result.loop) == ("kernel", "right", "in place")
    scatter = session("TensorScatter", 24, {"cache": ["B", "S", 4], "new": ["B", 1, 4], "write_indices": ["B"]})
    cache = np.arange(40, dtype=np.float32).reshape(2, 5, 4)
    expected = cache.copy()
    expected[0, 3], expected[1, 0] = -1, -1
    binding = scatter.binding()
    given = {"cache": cache, "new": np.full((2, 1, 4), -1, np.float32), "write_indices": np.array([3, 0])}
    for name, array in given.items():
        binding.bind_host_input(name, array)
    binding.bind_host_output("y", cache)  # the memory of the input
    scatter.run(binding)
    assert np.array_equal(cache, expected)


def test_inlined(matrix: Matrix) -> None:
    row = matrix.rows[1]
    assert (row.result.how, row.result.is_right) == ("inlined", True)
    assert row.result.error is not None
    assert 0 < row.result.error < 1e-6  # seen: 5e-8
    assert row.result.num_nodes == sum(row.result.others.values()) > 50  # seen: 96
    assert "Attention" not in row.result.others
    attention = session("Attention", 25, {name: ["B", "T", size] for name, size in (("q", 32), ("k", 16), ("v", 16))})
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((1, 4, size), np.float32) for size in (32, 16, 16))
    got = attention.call({"q": q, "k": k, "v": v})["y"]
    for head in range(4):
        ours = slice(head * 8, head * 8 + 8)
        theirs = slice(head // 2 * 8, head // 2 * 8 + 8)
        scores = q[0, :, ours] @ k[0, :, theirs].T / np.sqrt(8)
        distance = np.arange(4)[:, None] - np.arange(4)
        weights = np.where((distance >= 0) & (distance <= 1), np.exp(scores), 0)
        expected = weights / weights.sum(1, keepdims=True) @ v[0, :, theirs]
        assert np.abs(np.asarray(got)[0, :, ours] - expected).max() < 1e-5  # seen: 2e-7


def test_failing(matrix: Matrix) -> None:
    row = matrix.rows[2]
    assert (row.result.how, row.result.verdict, row.result.error) == ("failing", "failing", None)
    with pytest.raises(ModelError) as caught:
        session("SwiGLU", 28, {"a": ["B", 4], "b": ["B", 4]})
    assert "Could not find an implementation" in row.result.message
    assert row.result.message in str(caught.value)


def test_differs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that computes something else, and one that cannot share a buffer."""
    wanted = {name: array + 1e-3 for name, array in oracles.expected(CASES[RIGHT]).items()}
    monkeypatch.setattr(probe, "expected", lambda _: wanted)
    found = probe.probe(CASES[RIGHT], "cpu")
    assert (found.verdict, found.loop) == ("differs", "unsafe")
    assert found.error == pytest.approx(1e-3 / max(np.abs(array).max() for array in wanted.values()), rel=0.01)


def test_numbers_that_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """An infinity where the reference has a number, or the other way round, is no rounding; and JSON stays JSON."""
    wanted = oracles.expected(CASES[RIGHT])
    monkeypatch.setattr(probe, "expected", lambda _: {name: array + np.inf for name, array in wanted.items()})
    found = probe.probe(CASES[RIGHT], "cpu")
    assert (found.verdict, found.error) == ("differs", np.inf)
    row = Row(case=CASES[RIGHT], result=found)
    shown = as_json(Matrix(runtime="", provider="", onnx="", rows=(row,)))
    assert '"verdict": "differs"' in json.dumps(shown, allow_nan=False)


def test_a_crash_takes_one_row(tmp_path: Path) -> None:
    """The worker dies over the second row, prints nothing sensible over none; the third is tried by a new one."""
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import os, sys\n"
        "for line in sys.stdin:\n"
        f"    if line.strip() == {INLINED!r}:\n"
        "        print('the last words', file=sys.stderr, flush=True)\n"
        "        os.abort()\n"
        '    print(\'{"how": "kernel", "num_nodes": 1}\', flush=True)\n'
    )
    found = check([CASES[name] for name in (RIGHT, INLINED, FAILING)], worker=[sys.executable, str(worker)])
    assert [row.result.how for row in found.rows] == ["kernel", "failing", "kernel"]
    assert found.rows[1].result.message == "the process died with SIGABRT: the last words"


@pytest.mark.parametrize(("times", "found"), [(1, "kernel"), (2, "failing")])
def test_a_row_that_is_late_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int, found: str
) -> None:
    """A busy machine is no failing row; what is late twice is one."""
    monkeypatch.setattr(check_module, "_PATIENCE", 0.5)
    worker = tmp_path / "worker.py"
    worker.write_text(
        "import pathlib, sys, time\n"
        "for line in sys.stdin:\n"
        f"    log = pathlib.Path({str(tmp_path / 'log')!r})\n"
        "    log.write_text(log.read_text() + line if log.exists() else line)\n"
        f"    if line.strip() == {INLINED!r} and log.read_text().count(line) <= {times}:\n"
        "        time.sleep(60)\n"
        '    print(\'{"how": "kernel", "num_nodes": 1}\', flush=True)\n'
    )
    cases = [CASES[name] for name in (RIGHT, INLINED, FAILING)]
    rows = check(cases, worker=[sys.executable, str(worker)]).rows
    assert [row.result.how for row in rows] == ["kernel", found, "kernel"]
    assert rows[1].result.message.startswith("took longer") == (found == "failing")


def test_a_worker_that_never_starts(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no driver')"]
    with pytest.raises(RuntimeUnavailableError, match=r"no row can be tried on cpu: .* code 1: no driver"):
        check([CASES[name] for name in (RIGHT, INLINED, FAILING, RIGHT)], worker=command)


def test_on_memory_of_a_devices_own() -> None:
    """What a device has no kernel for is left to the CPU, and that is told."""
    with registered():
        found = probe.probe(CASES[RIGHT], "double")  # type: ignore[arg-type]
    assert (found.how, found.verdict, found.is_partly_on_cpu) == ("kernel", "right", True)
    assert how(found) == "kernel (partly on the CPU)"


def test_without_a_reference() -> None:
    """What runs but cannot be compared is not called failing: onnx.reference has one precision for a norm's squares."""
    found = probe.probe(CASES["ai.onnx.RMSNormalization-23 stash_type float16 float32"], "cpu")
    assert (found.how, found.verdict) == ("kernel", "unchecked")
    assert told(found).startswith("no reference: RMSNormalization not implemented for stash_type=10")


def test_rows_that_only_their_opset_tells_apart_are_one_line(matrix: Matrix) -> None:
    right, inlined, failing = matrix.rows
    later = replace(right, case=replace(right.case, opset=28), result=replace(right.result, error=1e-9))
    copied = replace(right, case=replace(right.case, opset=29), result=replace(right.result, loop="copied"))
    found = dict(lines(replace(matrix, rows=(right, later, copied, inlined, failing))))
    scatter = [line.cells for line in found["ai.onnx TensorScatter"]]
    assert scatter == [
        ("one token", "24, 28", "float32", "kernel", "right (1e-09)", "in place"),
        ("one token", "29", "float32", "kernel", "right", "copied"),
    ]
    assert [len(its) for its in found.values()] == [2, 1, 1]


def test_a_packages_rows(tmp_path: Path) -> None:
    build_random_model(tmp_path)
    cases, unknown = cases_of(tmp_path)
    kinds = {(case.operator, case.opset) for case in cases}
    assert {case.dtype for case in cases} == {"float32"}
    assert {("TensorScatter", 24), ("Attention", 24), ("RMSNormalization", 23)} <= kinds
    assert ("Attention", 25) not in kinds
    assert ("RMSNormalization", 28) not in kinds  # the same operator, told once
    assert unknown == []


def test_a_new_row_is_one_entry(tmp_path: Path) -> None:
    """As CONTRIBUTING.md says: tried, shown and written into the page."""
    row = '        *rows("Gelu", "of three axes", x, opsets=(20,)),\n'
    changed_copy(tmp_path, "genai/conformance/rows/standard.py", '        *rows("Gelu", "exact"', row)
    code = (
        "from genai.conformance import all_cases\n"
        "from genai.conformance.check import check\n"
        "from docs.operators import written\n"
        "from genai.conformance.report import markdown\n"
        "found = check([case for case in all_cases() if 'of three axes' in case.name])\n"
        "print(written('<!-- matrix -->\\n\\nold\\n\\n<!-- end -->', markdown(found)))\n"
    )
    assert "| of three axes | 20 | float32 | kernel | right" in answers(tmp_path, code)


def test_the_page_stands_alone(matrix: Matrix) -> None:
    text = page(matrix)
    assert "<script" not in text
    assert "http" not in text.replace("http-equiv", "")
    assert text.count("<tr><td>") == len(matrix.rows)
    assert f"inlined, {matrix.rows[1].result.num_nodes} nodes" in text


def test_the_pages_tables_are_the_commands(matrix: Matrix) -> None:
    """docs/operators.md is about the pinned runtime, has every row, and these three as they are found with it."""
    written, lock = PAGE.read_text(encoding="utf-8"), PAGE.parents[1] / "deploy" / "locks" / "dev.txt"
    pinned = re.search(r"^onnxruntime==(\S+)", lock.read_text(encoding="utf-8"), re.MULTILINE)
    assert pinned is not None
    assert f"runtime: onnxruntime {pinned[1]}," in written, "run `make operators`"
    assert f"rows: {len(CASES)}," in written, "run `make operators`"
    assert all(f"\n| {case.what} | " in written for case in CASES.values()), "run `make operators`"
    if matrix.runtime != f"onnxruntime {pinned[1]}":
        pytest.skip("another runtime than the pinned one")
    shown = [line for line in markdown(matrix).splitlines() if " | float32 | " in line]
    assert len(shown) == len(matrix.rows)
    for line in shown:
        assert line.partition(" (")[0] in written, "run `make operators`"
