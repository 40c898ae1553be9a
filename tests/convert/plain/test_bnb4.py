"""bitsandbytes' four bits, against ONNX Runtime's own operator."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from genai.convert.plain.bnb4 import dequantize_bnb4

K, N, BLOCK = 24, 10, 64


@pytest.mark.parametrize("quant_type", [0, 1])
def test_weights_are_what_the_operator_multiplies_by(quant_type: int) -> None:
    """The weight, read off a product with the identity; K * N is no multiple of the block."""
    rng = np.random.default_rng(0)
    packed = rng.integers(0, 256, K * N // 2).astype(np.uint8)
    scales = rng.random(-(-K * N // BLOCK)).astype(np.float32)
    x = ir.Value(name="x", shape=ir.Shape([K, K]), type=ir.TensorType(ir.DataType.FLOAT))
    weights = [
        ir.Value(
            name=name, const_value=ir.tensor(array, name=name), type=ir.TensorType(ir.DataType.from_numpy(array.dtype))
        )
        for name, array in (("packed", packed), ("scales", scales))
    ]
    attributes = {"K": K, "N": N, "block_size": BLOCK, "quant_type": quant_type}
    node = ir.node("MatMulBnb4", [x, *weights], attributes, domain="com.microsoft")
    y = node.outputs[0]
    y.name, y.type, y.shape = "y", ir.TensorType(ir.DataType.FLOAT), ir.Shape([K, N])
    graph = ir.Graph([x], [y], nodes=[node], initializers=weights, opset_imports={"": 21, "com.microsoft": 1}, name="g")
    model = ir.Model(graph, ir_version=10)
    wanted = run(model)
    assert dequantize_bnb4(model.graph) == 1
    assert [node.op_type for node in model.graph] == ["MatMul"]
    np.testing.assert_array_equal(run(model), wanted)


def run(model: ir.Model) -> np.ndarray:
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    return session.run(None, {"x": np.eye(K, dtype=np.float32)})[0]
