"""RMSNormalization from its parts, as exporters write them; and every reason why it is not fused."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from genai.convert.fusions import Site, fuse, survey
from genai.convert.normalize import normalize
from tests.convert.fusions.graphs import model_of, nodes, normal, operators, run

SIGNATURE = "float[B, T, 8] x => float[B, T, 8] y"
WEIGHTS = {"w": normal(8, seed=1)}
TORCH = """
    two = 2.0
    axes = [-1]
    eps = 1e-5
    square = Pow(x, two)
    mean = ReduceMean<keepdims=1>(square, axes)
    total = Add(mean, eps)
    root = Sqrt(total)
    inverse = Reciprocal(root)
    normed = Mul(x, inverse)
    y = Mul(w, normed)
"""
FORMS = {
    "torch": TORCH,
    "torchscript": """
        two = 2.0
        axes = [-1]
        eps = 1e-5
        one = 1.0
        square = Pow(x, two)
        mean = ReduceMean(square, axes)
        total = Add(eps, mean)
        root = Sqrt(total)
        inverse = Div(one, root)
        normed = Mul(inverse, x)
        y = Mul(normed, w)
    """,
    "divided by the root": """
        axes = [2]
        eps = [1e-5]
        square = Mul(x, x)
        mean = ReduceMean(square, axes)
        total = Add(mean, eps)
        root = Sqrt(total)
        normed = Div(x, root)
        y = Mul(normed, w)
    """,
    "a negative power": """
        two = 2.0
        axes = [-1]
        eps = 1e-5
        exponent = -0.5
        square = Pow(x, two)
        mean = ReduceMean(square, axes)
        total = Add(mean, eps)
        inverse = Pow(total, exponent)
        normed = Mul(x, inverse)
        y = Mul(normed, w)
    """,
    "an offset weight": """
        two = 2.0
        axes = [-1]
        eps = 1e-5
        one = 1.0
        square = Pow(x, two)
        mean = ReduceMean(square, axes)
        total = Add(mean, eps)
        root = Sqrt(total)
        inverse = Reciprocal(root)
        normed = Mul(x, inverse)
        scale = Add(w, one)
        y = Mul(normed, scale)
    """,
}


def only_site(model: ir.Model) -> Site:
    normalize(model)
    (site,) = fuse(model).of("RMSNormalization")
    return site


@pytest.mark.parametrize("form", FORMS)
def test_forms(form: str) -> None:
    model = model_of(SIGNATURE, FORMS[form], weights=WEIGHTS)
    x = normal(2, 3, 8)
    (expected,) = run(model, x=x)
    assert only_site(model).matched
    assert set(operators(model)) <= {"RMSNormalization", "Add"}
    assert [value.name for value in model.graph.outputs] == ["y"]
    np.testing.assert_allclose(run(model, x=x)[0], expected, rtol=1e-5)
    (norm,) = nodes(model, "RMSNormalization")
    assert norm.attributes["stash_type"].as_int() == ir.DataType.FLOAT
    assert norm.attributes["epsilon"].as_float() == pytest.approx(1e-5)


def test_older_opset_with_an_axes_attribute() -> None:
    body = TORCH.replace("    axes = [-1]\n", "").replace("<keepdims=1>(square, axes)", "<axes=[-1]>(square)")
    model = model_of(SIGNATURE, body, weights=WEIGHTS, opset=17)
    assert survey(model).sites[0].matched
    assert operators(model)[0] == "Pow", "a survey leaves the model alone"
    assert model.opset_imports[""] == 17


def test_casts_around_the_norm_become_its_own() -> None:
    body = """
        two = 2.0
        axes = [-1]
        eps = 1e-5
        wide = Cast<to=1>(x)
        square = Pow(wide, two)
        mean = ReduceMean(square, axes)
        total = Add(mean, eps)
        root = Sqrt(total)
        inverse = Reciprocal(root)
        normed = Mul(wide, inverse)
        narrow = Cast<to=10>(normed)
        y = Mul(w, narrow)
    """
    weights = {"w": normal(8, seed=1, dtype=np.float16)}
    model = model_of("float16[B, T, 8] x => float16[B, T, 8] y", body, weights=weights)
    x = 30 * normal(2, 3, 8, dtype=np.float16)  # whose squares overflow
    (expected,) = run(model, x=x)
    assert only_site(model).matched
    assert operators(model) == ["RMSNormalization"]
    np.testing.assert_allclose(run(model, x=x)[0], expected, rtol=2e-3)


def test_a_scale_in_32_bits_keeps_the_casts_outside() -> None:
    body = """
        two = 2.0
        axes = [-1]
        eps = 1e-5
        wide = Cast<to=1>(x)
        square = Pow(wide, two)
        mean = ReduceMean(square, axes)
        total = Add(mean, eps)
        root = Sqrt(total)
        inverse = Reciprocal(root)
        normed = Mul(wide, inverse)
        scaled = Mul(normed, w)
        y = Cast<to=10>(scaled)
    """
    model = model_of("float16[B, T, 8] x => float16[B, T, 8] y", body, weights=WEIGHTS)
    x = normal(2, 3, 8, dtype=np.float16)
    (expected,) = run(model, x=x)
    assert only_site(model).matched
    assert operators(model) == ["Cast", "RMSNormalization", "Cast"]
    np.testing.assert_array_equal(run(model, x=x)[0], expected)


def test_without_a_scale() -> None:
    body = TORCH.replace("    y = Mul(w, normed)\n", "    y = Identity(normed)\n")
    model = model_of(SIGNATURE, body)
    x = normal(2, 3, 8)
    (expected,) = run(model, x=x)
    assert only_site(model).matched
    assert "RMSNormalization" in operators(model)
    np.testing.assert_allclose(run(model, x=x)[0], expected, rtol=1e-5)


def test_norm_of_transposed_heads_goes_before_the_transpose() -> None:
    body = TORCH.replace("x", "heads").replace("    two", "    heads = Transpose<perm=[0, 2, 1, 3]>(x)\n    two", 1)
    body = body.replace("    y = Mul", "    scaled = Mul") + "    y = Transpose<perm=[0, 2, 1, 3]>(scaled)\n"
    body = body.replace("aheadses", "axes")
    model = model_of("float[B, T, 4, 8] x => float[B, T, 4, 8] y", body, weights=WEIGHTS)
    x = normal(2, 3, 4, 8)
    (expected,) = run(model, x=x)
    assert only_site(model).matched
    assert operators(model) == ["RMSNormalization"]
    np.testing.assert_allclose(run(model, x=x)[0], expected, rtol=1e-5)


def test_the_mean_may_be_read_elsewhere() -> None:
    body = TORCH + "    other = Identity(mean)\n"
    model = model_of(f"{SIGNATURE}, float[B, T, 1] other", body, weights=WEIGHTS)
    x = normal(2, 3, 8)
    expected = run(model, x=x)
    assert only_site(model).matched
    for got, wanted in zip(run(model, x=x), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5)


@pytest.mark.parametrize(
    ("changes", "node", "expected", "found"),
    [
        ({"axes = [-1]": "axes = [1]"}, "mean", "a mean over the last axis", "axes [1]"),
        ({"axes = [-1]": "axes = [-2, -1]"}, "mean", "a mean over the last axis", "axes [-2, -1]"),
        ({"total = Add(mean, eps)": "total = Sub(mean, eps)"}, "mean", "the addition of epsilon of its result", "Sub"),
        ({"total = Add(mean, eps)": "total = Add(mean, mean)"}, "total", "a constant epsilon", "a computed one"),
        ({"root = Sqrt(total)": "root = Exp(total)"}, "total", "the root of its result", "Exp"),
        ({"root = Sqrt(total)": "root = Pow(total, eps)"}, "root", "a power of 0.5 or -0.5", "a power of 1e-05"),
        ({"Reciprocal(root)": "Neg(root)"}, "root", "Reciprocal or Div of its result", "Neg"),
        ({"Reciprocal(root)": "Div(two, root)"}, "inverse", "x or 1 divided by the root", "two divided by it"),
        ({"Mul(x, inverse)": "Add(x, inverse)"}, "inverse", "x times the reciprocal root of its result", "Add"),
        (
            {"Mul(x, inverse)": "Mul(square, inverse)"},
            "normed",
            "x, whose squares were averaged, times the reciprocal root",
            "square",
        ),
    ],
)
def test_why_not(changes: dict[str, str], node: str, expected: str, found: str) -> None:
    body = TORCH
    for old, new in changes.items():
        assert old in body
        body = body.replace(old, new)
    model = model_of(SIGNATURE, body, weights=WEIGHTS)
    before = operators(model)
    mismatch = only_site(model).mismatch
    assert mismatch is not None
    assert mismatch.node == node
    assert mismatch.expected == expected
    assert mismatch.found.startswith(found)
    assert operators(model) == before


def test_layer_normalization_is_no_site() -> None:
    body = """
        two = 2.0
        axes = [-1]
        eps = 1e-5
        average = ReduceMean(x, axes)
        centred = Sub(x, average)
        square = Pow(centred, two)
        mean = ReduceMean(square, axes)
        total = Add(mean, eps)
        root = Sqrt(total)
        normed = Div(centred, root)
        y = Mul(normed, w)
    """
    model = model_of(SIGNATURE, body, weights=WEIGHTS)
    assert fuse(model).of("RMSNormalization") == ()


def test_operators_that_are_there() -> None:
    model = model_of(SIGNATURE, "y = RMSNormalization(x, w)", weights=WEIGHTS)
    site = only_site(model)
    assert site.is_present
    assert site.matched
