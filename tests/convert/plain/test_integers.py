"""Products of integers are only taken apart where their numbers are those that they stand for."""

from __future__ import annotations

import onnx_ir as ir
import pytest
from onnx import parser

from genai.convert.plain.integers import dequantize_products

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
