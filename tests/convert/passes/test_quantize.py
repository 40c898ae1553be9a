"""Products of a foreign graph with their weights rounded: what they compute is what the rounded weights say."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

import genai.convert.passes.quantize as rounding
from genai.build.quantize import Bits, quantize, quantize_with_offsets, with_offset_columns
from genai.convert.passes.quantize import quantize_products

RNG = np.random.default_rng(0)
WEIGHT = RNG.standard_normal((64, 40), np.float32) + 0.3
GEMM, ODD = RNG.standard_normal((40, 64), np.float32), RNG.standard_normal((40, 8), np.float32)
SIZES = {"first": 40, "third": 8}
BIAS = RNG.standard_normal(40, np.float32)


def graph(dtype: int = TensorProto.FLOAT) -> ir.Model:
    """Two products that read x [T, 64], one of them a Gemm, and one of the Gemm's 40 results."""
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["first"], name="first"),
        helper.make_node("Gemm", ["x", "gemm", "bias"], ["second"], name="second", transB=1),
        helper.make_node("MatMul", ["second", "odd"], ["third"], name="third"),
    ]
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    weights = {"weight": WEIGHT, "gemm": GEMM, "bias": BIAS, "odd": ODD}
    initializers = [numpy_helper.from_array(array.astype(kind), name) for name, array in weights.items()]
    outputs = [helper.make_tensor_value_info(name, dtype, ["T", size]) for name, size in SIZES.items()]
    inputs = [helper.make_tensor_value_info("x", dtype, ["T", 64])]
    made = helper.make_graph(nodes, "graph", inputs, outputs, initializers)
    return ir.from_proto(helper.make_model(made, opset_imports=[helper.make_opsetid("", 24)], ir_version=11))


def in_graph(weight: np.ndarray, bits: Bits) -> np.ndarray:
    """A weight [N, K] as the graph has it."""
    if bits == 8 or weight.shape[1] % 32:
        return quantize(weight, bits=bits, block_size=64 if weight.shape[1] % 64 == 0 else 32).dequantize()
    wide = with_offset_columns(quantize_with_offsets(weight)).dequantize()
    offsets = wide[:, weight.shape[1] :].reshape(len(weight), 2, -1).sum(axis=1)[:, : weight.shape[1] // 32]
    return np.asarray(wide[:, : weight.shape[1]] + np.repeat(offsets, 32, axis=1))


@pytest.mark.parametrize("bits", [4, 8])
def test_products_compute_what_their_weights_say(monkeypatch: pytest.MonkeyPatch, bits: Bits) -> None:
    monkeypatch.setattr(rounding, "_ACCURACY_LEVEL", 0)
    model = graph()
    report = quantize_products(model, bits)
    assert [weight.has_offsets for weight in report] == ([True, True, False] if bits == 4 else [False] * 3)
    proto = ir.to_proto(model)
    assert not {node.op_type for node in proto.graph.node} & {"MatMul", "Gemm"}
    assert Counter(node.op_type for node in proto.graph.node)["ReduceSum"] == (1 if bits == 4 else 0), "shared"
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    x = RNG.standard_normal((5, 64), np.float32)
    first, third = session.run(None, {"x": x})
    np.testing.assert_allclose(first, x @ in_graph(np.ascontiguousarray(WEIGHT.T), bits).T, atol=1e-4)
    second = x @ in_graph(GEMM, bits).T + BIAS
    np.testing.assert_allclose(third, second @ in_graph(np.ascontiguousarray(ODD.T), bits).T, atol=1e-4)


def test_halves_have_no_offsets() -> None:
    """Sums over blocks have no kernel in float16 on the processor."""
    report = quantize_products(graph(TensorProto.FLOAT16), 4)
    assert [weight.has_offsets for weight in report] == [False] * 3
