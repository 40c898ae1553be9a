"""RotaryEmbedding from its parts: whole and partial, in halves and in pairs; and every reason why it is not fused."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest

from genai.convert.fusions import Site, fuse
from genai.convert.normalize import normalize
from tests.convert.fusions.graphs import Array, model_of, nodes, normal, operators, run

HEADS = "float[B, 4, T, 8] x"
POSITIONS = "int64[B, T] positions"
FREQUENCIES: dict[str, Array] = {"frequencies": np.array([[[1.0, 0.3, 0.1, 0.03]]], np.float32)}
ANGLES = """
    last = [2]
    column = Unsqueeze(positions, last)
    numbers = Cast<to=1>(column)
    angles = Mul(numbers, frequencies)
    doubled = Concat<axis=-1>(angles, angles)
    cosines = Cos(doubled)
    sines = Sin(doubled)
    heads = [1]
    cos = Unsqueeze(cosines, heads)
    sin = Unsqueeze(sines, heads)
"""
SLICES = """
    zero = [0]
    half = [4]
    end = [9223372036854775807]
    axis = [3]
    first = Slice(x, zero, half, axis)
    second = Slice(x, half, end, axis)
"""
ROTATION = """
    negative = Neg(second)
    swapped = Concat<axis=-1>(negative, first)
    by_cos = Mul(x, cos)
    by_sin = Mul(swapped, sin)
    y = Add(by_cos, by_sin)
"""
OUTPUT = "float[B, 4, T, 8] y"


def only_site(model: ir.Model) -> Site:
    normalize(model)
    (site,) = fuse(model).of("RotaryEmbedding")
    return site


def inputs(*shape: int) -> dict[str, Array]:
    return {"x": normal(*shape), "positions": np.array([[0, 1, 2], [7, 8, 9]])}


def check(model: ir.Model, feeds: dict[str, Array]) -> ir.Node:
    """Fuse a model's one rotation and compare with what it computed before; the operator."""
    expected = run(model, **feeds)
    assert only_site(model).matched
    assert not {"Neg", "Slice", "Split"} & set(operators(model))
    for got, wanted in zip(run(model, **feeds), expected, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)
    (node,) = nodes(model, "RotaryEmbedding")
    return node


def test_slices() -> None:
    model = model_of(f"{HEADS}, {POSITIONS} => {OUTPUT}", ANGLES + SLICES + ROTATION, weights=FREQUENCIES)
    node = check(model, inputs(2, 4, 3, 8))
    assert node.attributes["num_heads"].as_int() == 4
    assert node.attributes["rotary_embedding_dim"].as_int() == 0
    assert "Concat" not in operators(model), "the angles are used as they are before they are doubled"


def test_split() -> None:
    body = ANGLES + "    first, second = Split<axis=-1, num_outputs=2>(x)\n" + ROTATION
    check(model_of(f"{HEADS}, {POSITIONS} => {OUTPUT}", body, weights=FREQUENCIES), inputs(2, 4, 3, 8))


def test_bounds_from_the_end_and_operands_the_other_way_round() -> None:
    body = ANGLES + SLICES.replace("half = [4]", "half = [-4]").replace("axis = [3]", "axis = [-1]")
    body += ROTATION.replace("Mul(x, cos)", "Mul(cos, x)").replace("Add(by_cos, by_sin)", "Add(by_sin, by_cos)")
    check(model_of(f"{HEADS}, {POSITIONS} => {OUTPUT}", body, weights=FREQUENCIES), inputs(2, 4, 3, 8))


def test_bounds_computed_from_the_shape() -> None:
    computed = """
        shape = Shape(x)
        three = 3
        two = 2
        size = Gather(shape, three)
        middle = Div(size, two)
        zero = [0]
        half = Unsqueeze(middle, zero)
        end = [9223372036854775807]
        axis = [3]
        first = Slice(x, zero, half, axis)
        second = Slice(x, half, end, axis)
    """
    model = model_of(f"{HEADS}, {POSITIONS} => {OUTPUT}", ANGLES + computed + ROTATION, weights=FREQUENCIES)
    check(model, inputs(2, 4, 3, 8))


def test_heads_behind_the_tokens() -> None:
    angles = ANGLES.replace("heads = [1]", "heads = [2]")
    signature = f"float[B, T, 4, 8] x, {POSITIONS} => float[B, T, 4, 8] y"
    model = model_of(signature, angles + SLICES + ROTATION, weights=FREQUENCIES)
    check(model, inputs(2, 3, 4, 8))
    assert "Transpose" not in operators(model)


def test_rows_stay_flat_between_transposes() -> None:
    """From a product [B, T, H*D] to attention's flat operands: no Transpose and no Reshape is left."""
    split = """
        target = [0, 0, 4, 8]
        rows = Reshape(flat, target)
        x = Transpose<perm=[0, 2, 1, 3]>(rows)
    """
    join = """
        back = Transpose<perm=[0, 2, 1, 3]>(y)
        shape = Shape<start=0, end=2>(flat)
        width = [32]
        whole = Concat<axis=0>(shape, width)
        z = Reshape(back, whole)
    """
    signature = f"float[B, T, 32] flat, {POSITIONS} => float[B, T, 32] z"
    model = model_of(signature, split + ANGLES + SLICES + ROTATION + join, weights=FREQUENCIES)
    feeds = {"flat": normal(2, 3, 32), "positions": inputs(1)["positions"]}
    check(model, feeds)
    assert not {"Transpose", "Reshape", "Shape"} & set(operators(model))


def test_part_of_each_head() -> None:
    parts = """
        begin = [0]
        turned = [8]
        whole = [12]
        last_axis = [3]
        x = Slice(full, begin, turned, last_axis)
        rest = Slice(full, turned, whole, last_axis)
    """
    join = "    z = Concat<axis=-1>(y, rest)\n"
    signature = f"float[B, 4, T, 12] full, {POSITIONS} => float[B, 4, T, 12] z"
    model = model_of(signature, parts + ANGLES + SLICES + ROTATION + join, weights=FREQUENCIES)
    node = check(model, {"full": normal(2, 4, 3, 12), "positions": inputs(1)["positions"]})
    assert node.attributes["rotary_embedding_dim"].as_int() == 8


def test_pairs() -> None:
    angles = """
        last = [2]
        column = Unsqueeze(positions, last)
        numbers = Cast<to=1>(column)
        angles = Mul(numbers, frequencies)
        behind = [3]
        standing = Unsqueeze(angles, behind)
        twice = Concat<axis=-1>(standing, standing)
        row = [0, 0, 8]
        doubled = Reshape(twice, row)
        cosines = Cos(doubled)
        sines = Sin(doubled)
        heads = [1]
        cos = Unsqueeze(cosines, heads)
        sin = Unsqueeze(sines, heads)
    """
    rotation = """
        zero = [0]
        one = [1]
        end = [9223372036854775807]
        axis = [3]
        step = [2]
        first = Slice(x, zero, end, axis, step)
        second = Slice(x, one, end, axis, step)
        negative = Neg(second)
        deeper = [4]
        left = Unsqueeze(negative, deeper)
        right = Unsqueeze(first, deeper)
        pairs = Concat<axis=-1>(left, right)
        flat = [0, 0, 0, 8]
        swapped = Reshape(pairs, flat)
        by_cos = Mul(x, cos)
        by_sin = Mul(swapped, sin)
        y = Add(by_cos, by_sin)
    """
    model = model_of(f"{HEADS}, {POSITIONS} => {OUTPUT}", angles + rotation, weights=FREQUENCIES)
    assert check(model, inputs(2, 4, 3, 8)).attributes["interleaved"].as_int() == 1


def test_tables_that_are_stored() -> None:
    angles = """
        cosines = Gather(cos_table, positions)
        sines = Gather(sin_table, positions)
        heads = [1]
        cos = Unsqueeze(cosines, heads)
        sin = Unsqueeze(sines, heads)
    """
    half = np.arange(16)[:, None] * FREQUENCIES["frequencies"].reshape(1, 4)
    whole = np.concatenate([half, half], axis=1).astype(np.float32)
    tables = {"cos_table": np.cos(whole), "sin_table": np.sin(whole)}
    model = model_of(f"{HEADS}, {POSITIONS} => {OUTPUT}", angles + SLICES + ROTATION, weights=tables)
    check(model, inputs(2, 4, 3, 8))
    stored = {name: value.shape for name, value in model.graph.initializers.items() if "table" in name}
    assert {str(shape) for shape in stored.values()} == {"[16,4]"}


def test_scaled_angles_of_one_row_for_all() -> None:
    """A factor between the angles and the product is kept; a single row of angles is given to each row of x."""
    angles = ANGLES.replace(
        "cosines = Cos(doubled)", "factor = 1.25\n    bare = Cos(doubled)\n    cosines = Mul(bare, factor)"
    )
    model = model_of(f"{HEADS}, int64[1, T] positions => {OUTPUT}", angles + SLICES + ROTATION, weights=FREQUENCIES)
    check(model, {"x": normal(2, 4, 3, 8), "positions": np.array([[3, 4, 5]])})
    assert operators(model).count("Expand") == 2


def test_layers_share_their_angles() -> None:
    second = SLICES.replace("(x,", "(y,").replace("first", "third").replace("second", "fourth")
    second = "\n".join(line for line in second.splitlines() if "Slice" in line)
    again = ROTATION.replace("(x,", "(y,").replace("first", "third").replace("second", "fourth").replace("y = ", "z = ")
    for name in ("negative", "swapped", "by_cos", "by_sin"):
        again = again.replace(name, f"{name}_2")
    body = ANGLES + SLICES + ROTATION + second + "\n" + again
    model = model_of(f"{HEADS}, {POSITIONS} => float[B, 4, T, 8] z", body, weights=FREQUENCIES)
    feeds = inputs(2, 4, 3, 8)
    expected = run(model, **feeds)
    normalize(model)
    assert [site.matched for site in fuse(model).of("RotaryEmbedding")] == [True, True]
    assert operators(model).count("Cos") == 1
    np.testing.assert_allclose(run(model, **feeds)[0], expected[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "node", "expected", "found"),
    [
        ("half = [4]", "half = [3]", "swapped", "the halves of 8 numbers", "0:3:1 and 3:8:1"),
        ("Slice(x, half,", "Slice(w, half,", "swapped", "two parts of one value", "parts of x and of w"),
        ("Mul(swapped, sin)", "Div(swapped, sin)", "swapped", "the product with the sines of its result", "Div"),
        ("Add(by_cos, by_sin)", "Sub(by_cos, by_sin)", "by_sin", "the sum of both products of its result", "Sub"),
        ("Mul(x, cos)", "Div(x, cos)", "by_cos", "the product with the cosines", "Div"),
        ("Mul(x, cos)", "Mul(w, cos)", "by_cos", "x, whose halves are swapped, times the cosines", "another value"),
        (
            "Concat<axis=-1>(angles, angles)",
            "Concat<axis=-1>(angles, numbers4)",
            "doubled",
            "cosines and sines whose halves are seen to be equal",
            "Concat",
        ),
        (
            "Slice(x, zero, half, axis)",
            "Slice(x, zero, unknown, axis)",
            "first",
            "a slice of one axis with constant bounds",
            "computed bounds, or several axes",
        ),
        (
            "Slice(x, zero, half, axis)",
            "Slice(x, zero, half, zero)",
            "first",
            "a slice of the last axis",
            "axis 0 of shape [B,4,T,8]",
        ),
    ],
)
def test_why_not(old: str, new: str, node: str, expected: str, found: str) -> None:
    body = ANGLES.replace("    doubled", "    numbers4 = Add(angles, angles)\n    doubled", 1) + SLICES + ROTATION
    assert old in body
    signature = f"{HEADS}, float[B, 4, T, 8] w, int64[1] unknown, {POSITIONS} => {OUTPUT}"
    model = model_of(signature, body.replace(old, new), weights=FREQUENCIES)
    mismatch = only_site(model).mismatch
    assert mismatch is not None
    assert (mismatch.node, mismatch.expected, mismatch.found) == (node, expected, found)
    assert "RotaryEmbedding" not in operators(model)


def test_tables_that_differ_in_their_halves() -> None:
    angles = """
        cosines = Gather(table, positions)
        heads = [1]
        cos = Unsqueeze(cosines, heads)
        sin = Unsqueeze(cosines, heads)
    """
    model = model_of(f"{HEADS}, {POSITIONS} => {OUTPUT}", angles + SLICES + ROTATION, weights={"table": normal(16, 8)})
    mismatch = only_site(model).mismatch
    assert mismatch is not None
    assert (mismatch.node, mismatch.found) == ("table", "the weight table")


def test_unknown_number_of_heads() -> None:
    signature = f"float[B, H, T, 8] x, {POSITIONS} => float[B, H, T, 8] y"
    mismatch = only_site(model_of(signature, ANGLES + SLICES + ROTATION, weights=FREQUENCIES)).mismatch
    assert mismatch is not None
    assert mismatch.expected == "four dimensions with a known number and size of heads"
