"""Products of integers are only taken apart where their numbers are those that they stand for."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from genai.config import EngineConfig
from genai.convert.plain.integers import dequantize_products
from genai.runtime.session import Session


def run(model: ir.Model, x: np.ndarray) -> np.ndarray:
    return Session(ir.to_proto(model).SerializeToString(), EngineConfig(device="cpu")).call({"x": x})["y"]


PRODUCT = """
<ir_version: 10, opset_import: ["" : 18]>
g (float[n, 4] x) => (float[n, 2] y) <int8[4, 2] w = {{1, 2, 3, 4, 5, 6, 7, 8}}, float s = {{0.5}}> {{
    q, a, z = DynamicQuantizeLinear(x)
    p = MatMulInteger(q, w{zero})
    f = Cast<to = 1>(p)
    b = Mul(a, s)
    y = Mul(f, b)
}}
"""


@pytest.mark.parametrize(("zero", "count"), [(", z", 1), ("", 0)])
def test_the_zero_point_is_the_inputs(zero: str, count: int) -> None:
    model = ir.from_proto(parser.parse_model(PRODUCT.format(zero=zero)))
    assert dequantize_products(model.graph) == count


@pytest.mark.parametrize("dtype", [np.int8, np.uint8])
@pytest.mark.parametrize("scale", [(), (1,), (3,)], ids=str)
@pytest.mark.parametrize("zero", [None, (), (1,), (3,)], ids=str)
def test_numbers_are_those_that_integers_give(
    dtype: type, scale: tuple[int, ...], zero: tuple[int, ...] | None
) -> None:
    """Weights of both signs, with one scale and zero point or one for each column; x is exact in 8 bits.

    Signed weights have 7 bits: beyond, sums of two products saturate on CPUs without VNNI.
    """
    rng = np.random.default_rng(0)
    low, high = (-64, 63) if dtype == np.int8 else (0, 255)
    weights = {
        "w": rng.integers(low, high, (8, 3), dtype=dtype, endpoint=True),
        "s": rng.uniform(0.5, 2, scale).astype(np.float32),
    }
    if zero is not None:
        weights["zero"] = rng.integers(low, high, zero, dtype=dtype, endpoint=True)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["q", "a", "z"]),
        helper.make_node("MatMulInteger", ["q", "w", "z", *([] if zero is None else ["zero"])], ["p"]),
        helper.make_node("Cast", ["p"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["a", "s"], ["b"]),
        helper.make_node("Mul", ["f", "b"], ["y"]),
    ]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "products",
        [value("x", TensorProto.FLOAT, ["n", 8])],
        [value("y", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10))
    x = rng.integers(-100, 155, (5, 8)).astype(np.float32)
    x[0, :2] = -100, 155
    wanted = run(model, x)
    assert dequantize_products(model.graph) == (zero is None or zero == scale)
    got = run(model, x)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)
