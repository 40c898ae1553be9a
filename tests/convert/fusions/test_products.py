"""Products of flattened rows."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
import pytest

from genai.convert.fusions.products import unflatten_products
from genai.convert.normalize import normalize
from tests.convert.fusions.graphs import Array, model_of, normal, operators, run

FLAT = """
    rows = [-1, 8]
    target = [2, 3, 6]
    flat = Reshape(x, rows)
    product = Gemm(flat, w, bias)
    y = Reshape(product, target)
"""
SIGNATURE = "float[2, 3, 8] x => float[2, 3, 6] y"
WEIGHTS: dict[str, Array] = {"w": normal(8, 6), "bias": normal(6, seed=1)}


def rewritten(model: ir.Model, **feeds: Array) -> list[str]:
    expected = run(model, **feeds)
    normalize(model)
    unflatten_products(model.graph)
    passes.RemoveUnusedNodesPass()(model)
    np.testing.assert_allclose(run(model, **feeds)[0], expected[0], rtol=1e-4, atol=1e-5)
    return operators(model)


def test_rows_are_not_flattened() -> None:
    assert rewritten(model_of(SIGNATURE, FLAT, weights=WEIGHTS), x=normal(2, 3, 8)) == ["MatMul", "Add"]


def test_without_a_bias() -> None:
    body = FLAT.replace(", bias)", ")")
    assert rewritten(model_of(SIGNATURE, body, weights={"w": WEIGHTS["w"]}), x=normal(2, 3, 8)) == ["MatMul"]


@pytest.mark.parametrize(
    ("old", "new"),
    [("Gemm(flat, w, bias)", "Gemm<alpha=2.0>(flat, w, bias)"), ("target = [2, 3, 6]", "target = [3, 2, 6]")],
)
def test_other_products_stay(old: str, new: str) -> None:
    signature = SIGNATURE if "alpha" in new else SIGNATURE.replace("float[2, 3, 6] y", "float[3, 2, 6] y")
    model = model_of(signature, FLAT.replace(old, new), weights=WEIGHTS)
    assert rewritten(model, x=normal(2, 3, 8)) == ["Reshape", "Gemm", "Reshape"]
