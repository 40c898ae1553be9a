"""What `genai inspect` says of operators without kernels, held against the table that the runtime itself filled."""

from __future__ import annotations

from pathlib import Path

import pytest

from genai.inspect.kernels import without_kernels

MEASURED = (Path(__file__).parents[2] / "docs" / "operators.md").read_text()


@pytest.mark.parametrize(
    ("kind", "opset"), [("Attention", 25), ("LinearAttention", 27), ("CausalConvWithState", 27), ("Swish", 24)]
)
def test_inlined_operators_are_those_that_were_measured(kind: str, opset: int) -> None:
    (line,) = without_kernels({kind: 3, "MatMul": 7}, opset)
    assert line.startswith(f"3 {kind}: no kernel at opset {opset}, inlined into ")
    section = MEASURED.partition(f"### ai.onnx {kind}\n")[2].partition("###")[0]
    rows = [[cell.strip() for cell in row.split("|")] for row in section.splitlines() if "| float32 | inlined, " in row]
    numbers = {int(how.split()[1]) for _, _, opsets, _, how, *_ in rows if str(opset) in opsets.split(", ")}
    low, high = min(numbers), max(numbers)
    assert f"into {low if low == high else f'{low} to {high}'} nodes" in line


@pytest.mark.parametrize(("kind", "opset"), [("SwiGLU", 28), ("Swish", 25)])
def test_operators_that_do_not_load(kind: str, opset: int) -> None:
    assert without_kernels({kind: 1}, opset) == (f"1 {kind}: does not load at opset {opset}",)


def test_packages_have_kernels_for_all() -> None:
    assert without_kernels({"Attention": 30, "TensorScatter": 60, "RMSNormalization": 61}, 24) == ()
