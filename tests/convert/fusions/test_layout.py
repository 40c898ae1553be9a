"""Transposes and Reshapes that undo each other."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnx_ir.passes.common as passes
import pytest

from genai.convert.fusions.layout import clean
from genai.convert.normalize import normalize
from tests.convert.fusions.graphs import Array, model_of, normal, operators, run

FLAT = "float[B, T, 32] x => float[B, T, 32] y"


def cleaned(model: ir.Model, **feeds: Array) -> list[str]:
    """The operators that are left, after checking that they compute what was computed before."""
    expected = run(model, **feeds)
    normalize(model)
    clean(model.graph)
    passes.RemoveUnusedNodesPass()(model)
    for got, wanted in zip(run(model, **feeds), expected, strict=True):
        np.testing.assert_array_equal(got, wanted)
    return operators(model)


def test_transposes_that_cancel() -> None:
    body = """
        a = Transpose<perm=[0, 2, 1, 3]>(x)
        b = Transpose<perm=[0, 2, 1, 3]>(a)
        y = Neg(b)
    """
    assert cleaned(model_of("float[B, T, 4, 8] x => float[B, T, 4, 8] y", body), x=normal(2, 3, 4, 8)) == ["Neg"]


def test_an_output_stays_what_it_is() -> None:
    """The input does not become an output, and one value does not become two of them."""
    body = """
        a = Transpose<perm=[0, 2, 1, 3]>(x)
        y = Transpose<perm=[0, 2, 1, 3]>(a)
        z = Neg(y)
    """
    model = model_of("float[B, T, 4, 8] x => float[B, T, 4, 8] y, float[B, T, 4, 8] z", body)
    assert cleaned(model, x=normal(2, 3, 4, 8)) == ["Transpose", "Transpose", "Neg"]
    assert [value.name for value in model.graph.outputs] == ["y", "z"]


def test_transposes_that_join() -> None:
    body = """
        a = Transpose<perm=[1, 2, 0]>(x)
        y = Transpose<perm=[1, 2, 0]>(a)
    """
    assert cleaned(model_of("float[2, 3, 4] x => float[4, 2, 3] y", body), x=normal(2, 3, 4)) == ["Transpose"]


def test_heads_split_and_joined() -> None:
    body = """
        split = [0, 0, 4, 8]
        join = [0, 0, 32]
        a = Reshape(x, split)
        b = Reshape(a, join)
        y = Neg(b)
    """
    assert cleaned(model_of(FLAT, body), x=normal(2, 3, 32)) == ["Neg"]


def test_computed_shapes_become_constants() -> None:
    body = """
        sizes = Shape<start=0, end=2>(x)
        heads = [4, 8]
        split = Concat<axis=0>(sizes, heads)
        y = Reshape<allowzero=1>(x, split)
    """
    model = model_of("float[B, T, 32] x => float[B, T, 4, 8] y", body)
    assert cleaned(model, x=normal(2, 3, 32)) == ["Reshape"]


@pytest.mark.parametrize(
    ("signature", "body", "shape"),
    [
        ("float[2, 3, 32] x => float[3, 2, 32] y", "target = [3, 2, 32]\n y = Reshape(x, target)", (2, 3, 32)),
        (
            "float[2, 3, 4] x => float[6, 4] y",
            "a = [4, 6]\n b = [-1, 4]\n c = Reshape(x, a)\n d = Neg(c)\n y = Reshape(d, b)",
            (2, 3, 4),
        ),
        (
            "float[0, 4] x => float[0, 4] y",
            "target = [0, 4]\n a = Reshape<allowzero=1>(x, target)\n y = Neg(a)",
            (0, 4),
        ),
    ],
)
def test_what_changes_something_stays(signature: str, body: str, shape: tuple[int, ...]) -> None:
    assert "Reshape" in cleaned(model_of(signature, body), x=normal(*shape))


def test_a_zero_that_copies_another_dimension_keeps_both() -> None:
    body = """
        merge = [-1, 4]
        copy = [0, 2, 2]
        a = Reshape(x, merge)
        y = Reshape(a, copy)
    """
    assert cleaned(model_of("float[2, 3, 4] x => float[6, 2, 2] y", body), x=normal(2, 3, 4))[-1] == "Reshape"
