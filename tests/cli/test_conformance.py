"""`genai conformance`: as text, as JSON, as a page."""

from __future__ import annotations

import json
from pathlib import Path

from genai.runtime.ort import import_onnxruntime
from tests.cli.conftest import Genai

ROW = "ai.onnx.TensorScatter-24 one token float32"


def test_one_row(run_genai: Genai, tmp_path: Path) -> None:
    outcome = run_genai("conformance", "--only", ROW, "--json", "--html", tmp_path / "page.html", "--timings")
    told = json.loads(outcome.out)
    assert told["runtime"] == f"onnxruntime {import_onnxruntime().__version__}"
    (row,) = told["rows"]
    assert (row["name"], row["verdict"], row["num_nodes"]) == (ROW, "right", 1)
    assert row["growth"].keys() == {"capacity", "valid"}
    assert "TensorScatter" in (tmp_path / "page.html").read_text()
    shown = run_genai("conformance", "--only", ROW).out
    assert "in place" in shown
    assert "capacity" not in shown


def test_refused(run_genai: Genai, tmp_path: Path) -> None:
    outcome = run_genai("conformance", "--only", "nonsense")
    assert (outcome.code, "no row has 'nonsense' in its name" in outcome.err) == (2, True)
    outcome = run_genai("conformance", "--only", ROW, "--html", tmp_path / "no" / "page.html")
    assert (outcome.code, "cannot be written" in outcome.err) == (2, True)
