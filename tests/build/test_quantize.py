from __future__ import annotations

from dataclasses import replace
from typing import Literal

import gguf
import numpy as np
import onnx
import pytest
from gguf.constants import GGMLQuantizationType
from onnx import TensorProto, helper, numpy_helper

from genai.build.quantize import (
    num_offset_columns,
    pack,
    quantize,
    quantize_with_offsets,
    requantized,
    with_offset_columns,
)
from genai.build.source import BlockWeight
from genai.config import disable_runtime_telemetry
from genai.errors import WeightsError

disable_runtime_telemetry()
ort = pytest.importorskip("onnxruntime")

RNG = np.random.default_rng(3)
Bits = Literal[4, 8]


def normal(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def rms(error: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(error, dtype=np.float64))))


def padded(block: BlockWeight) -> np.ndarray:
    """The weight with its rows filled up to whole blocks by zeros: [N, blocks * block_size]."""
    rows, columns = block.values.shape
    zero = 2 ** (block.bits - 1)
    values = np.pad(block.values, ((0, 0), (0, -columns % block.block_size)), constant_values=zero)
    centred = values.astype(np.float32).reshape(rows, -1, block.block_size) - zero
    return (centred * block.scales[:, :, None]).reshape(rows, -1)


def run(node: onnx.NodeProto, feeds: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> np.ndarray:
    graph = helper.make_graph(
        [node],
        "graph",
        [helper.make_tensor_value_info(k, helper.np_dtype_to_tensor_dtype(v.dtype), v.shape) for k, v in feeds.items()],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in weights.items()],
    )
    imports = [helper.make_opsetid("", 24), helper.make_opsetid("com.microsoft", 1)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=11)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, feeds)[0])


@pytest.mark.parametrize("columns", [128, 100])
@pytest.mark.parametrize("block_size", [16, 32, 128])
@pytest.mark.parametrize("bits", [4, 8])
def test_packed_weights_multiply_in_onnx_runtime(bits: Bits, block_size: int, columns: int) -> None:
    block = quantize(normal(24, columns), bits=bits, block_size=block_size)
    data, scales = pack(block)
    weight = padded(block)[:, :columns]
    for num_rows in (1, 5):
        x = normal(num_rows, columns)
        for level in (0, 4):
            node = helper.make_node(
                "MatMulNBits", ["x", "data", "scales"], ["y"], domain="com.microsoft",
                N=24, K=columns, bits=bits, block_size=block_size, accuracy_level=level,
            )  # fmt: skip
            y = run(node, {"x": x}, {"data": data, "scales": scales})
            # Level 4 rounds activations to 8 bits too: at most half a step of the largest one, for every product.
            steps = np.abs(x).max() / 127 * np.abs(weight).sum(axis=1) / 2 if level == 4 else np.zeros(24)
            assert (np.abs(y - x @ weight.T) <= 1.01 * steps + 3e-5).all()


@pytest.mark.parametrize("block_size", [16, 32])
@pytest.mark.parametrize("bits", [4, 8])
def test_packed_rows_are_gathered_in_onnx_runtime(bits: Bits, block_size: int) -> None:
    block = quantize(normal(20, 64), bits=bits, block_size=block_size)
    data, scales = pack(block)
    ids = np.array([[3, 0, 19]], np.int64)
    node = helper.make_node(
        "GatherBlockQuantized", ["data", "ids", "scales"], ["y"], domain="com.microsoft",
        bits=bits, block_size=block_size, gather_axis=0, quantize_axis=1,
    )  # fmt: skip
    y = run(node, {"ids": ids}, {"data": data.reshape(20, -1), "scales": scales})
    np.testing.assert_array_equal(y, block.dequantize()[ids])


def test_layout() -> None:
    values = np.arange(32, dtype=np.uint8)[None] % 16
    block = BlockWeight(values=values, scales=np.ones((1, 1), np.float32), bits=4, block_size=32)
    data, scales = pack(block)
    assert data.shape == (1, 1, 16)
    assert data[0, 0, :2].tolist() == [0x10, 0x32]
    assert scales.dtype == np.float32
    with pytest.raises(ValueError, match="requantized"):
        pack(BlockWeight(values=values, scales=block.scales, bits=4, block_size=32, offsets=block.scales))


def test_short_rows_are_filled_with_zeros() -> None:
    data, _ = pack(quantize(normal(3, 40), bits=8))
    assert data.shape == (3, 2, 32)
    assert (data[:, 1, 8:] == 128).all()
    data, _ = pack(quantize(normal(3, 40), bits=4))
    assert (data[:, 1, 4:] == 0x88).all()


def test_eight_bits_are_within_half_a_step() -> None:
    weight = normal(70, 96)
    block = quantize(weight, bits=8)
    steps = np.repeat(block.scales, 32, axis=1)
    assert (np.abs(block.dequantize() - weight) <= 0.5001 * steps).all()
    np.testing.assert_allclose(block.scales, np.abs(weight).reshape(70, 3, 32).max(axis=-1) / 127, rtol=1e-6)


def test_four_bits_are_closer_than_q4_0() -> None:
    weight = normal(256, 512)
    theirs = gguf.quantize(weight, GGMLQuantizationType.Q4_0)
    error = rms(gguf.dequantize(theirs, GGMLQuantizationType.Q4_0) - weight)
    assert rms(quantize(weight, bits=4).dequantize() - weight) < 0.96 * error


def test_four_bits_are_near_the_best_scale() -> None:
    """An exhaustive search over scales and both signs, on few blocks."""
    weight = normal(40, 32)
    block = quantize(weight, bits=4)
    ours = np.square(block.dequantize() - weight).sum(axis=1)
    scales = np.abs(weight).max(axis=1)[:, None] / np.linspace(4, 10, 1200) * np.array([[[1]], [[-1]]])
    rounded = np.clip(np.rint(weight[None, :, None] / scales[..., None]), -8, 7) * scales[..., None]
    best = np.square(rounded - weight[None, :, None]).sum(axis=-1).min(axis=(0, 2))
    assert (ours <= 1.35 * best).all()
    assert ours.sum() <= 1.08 * best.sum()


def test_grid_points_come_back_exactly() -> None:
    levels = RNG.integers(-8, 8, (10, 64)).astype(np.float32)
    levels[:, ::32] = -8
    np.testing.assert_allclose(quantize(levels * 0.25, bits=4).dequantize(), levels * 0.25, rtol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
def test_zero_and_tiny_blocks(bits: Bits) -> None:
    weight = np.zeros((4, 64), np.float32)
    weight[1] = 1e-40
    weight[2, 3] = -1e-38
    weight[3, 40] = 1.0
    block = quantize(weight, bits=bits)
    assert (np.abs(block.dequantize() - weight) <= 1e-37).all()
    assert np.isfinite(block.scales).all()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(bits: Bits, value: float) -> None:
    weight = normal(5, 64)
    weight[3, 7] = value
    with pytest.raises(WeightsError, match="not numbers"):
        quantize(weight, bits=bits)


@pytest.mark.parametrize("bits", [4, 8])
def test_chunks_have_no_seams(bits: Bits) -> None:
    weight = normal(700, 512)
    whole = quantize(weight, bits=bits)
    for row in (0, 255, 256, 699):
        alone = quantize(weight[row : row + 1], bits=bits)
        np.testing.assert_array_equal(whole.values[row], alone.values[0])
        np.testing.assert_array_equal(whole.scales[row], alone.scales[0])


def test_requantized_without_offsets_is_exact() -> None:
    block = quantize(normal(9, 64), bits=4)
    wide = requantized(block)
    assert wide.bits == 8
    np.testing.assert_array_equal(wide.dequantize(), block.dequantize())
    assert requantized(wide).values is not None
    np.testing.assert_array_equal(requantized(wide).dequantize(), block.dequantize())


def test_requantized_with_offsets_is_within_half_a_step() -> None:
    values = RNG.integers(0, 16, (50, 96)).astype(np.uint8)
    block = BlockWeight(values=values, scales=normal(50, 3), bits=4, block_size=32, offsets=normal(50, 3))
    symmetric = requantized(block)
    assert symmetric.offsets is None
    error = np.abs(symmetric.dequantize() - block.dequantize())
    assert (error <= 0.5001 * np.repeat(symmetric.scales, 32, axis=1)).all()


def test_requantized_refuses_offsets_that_are_no_numbers() -> None:
    ones = np.ones((2, 1), np.float32)
    values = np.zeros((2, 32), np.uint8)
    for scales, offsets in ((ones * np.inf, ones), (ones, ones * np.nan), (-ones * np.inf, ones * np.inf)):
        with pytest.raises(WeightsError, match="not numbers"):
            requantized(BlockWeight(values=values, scales=scales, bits=4, block_size=32, offsets=offsets))


def test_requantized_to_four_bits_rounds_anew() -> None:
    block = quantize(normal(50, 96), bits=8)
    narrow = requantized(block, bits=4)
    assert narrow.bits == 4
    np.testing.assert_array_equal(narrow.values, quantize(block.dequantize(), bits=4).values)


def with_offsets(rows: int, columns: int, block_size: int) -> BlockWeight:
    symmetric = quantize(normal(rows, columns), bits=4, block_size=block_size)
    offsets = np.random.default_rng(5).standard_normal(symmetric.scales.shape, dtype=np.float32)
    return BlockWeight(values=symmetric.values, scales=symmetric.scales, bits=4, block_size=block_size, offsets=offsets)


@pytest.mark.parametrize(
    ("columns", "block_size", "wanted"), [(64, 32, 32), (1024, 32, 32), (1056, 32, 64), (96, 16, 16)]
)
def test_offsets_as_further_columns(columns: int, block_size: int, wanted: int) -> None:
    """The product with an input and its sums, twice, is that of the weight: 2e-3 of the largest offset is lost."""
    block = with_offsets(8, columns, block_size)
    assert block.offsets is not None
    assert num_offset_columns(columns, block_size) == wanted
    wide = with_offset_columns(block).dequantize()
    assert wide.shape == (8, columns + 2 * wanted)
    values = normal(3, columns)
    sums = np.pad(values.reshape(3, -1, block_size).sum(axis=-1), ((0, 0), (0, wanted - columns // block_size)))
    product = np.concatenate([values, sums, sums], axis=1) @ wide.T
    lost = np.abs(product - values @ block.dequantize().T).max()
    most = np.abs(sums).sum(axis=1).max() * np.abs(block.offsets).max()
    assert 0 < lost < 4e-3 * most


def test_only_whole_4_bit_blocks_with_offsets_have_further_columns() -> None:
    block = with_offsets(2, 64, 32)
    for other in (replace(block, offsets=None), replace(block, bits=8), replace(block, values=block.values[:, :60])):
        with pytest.raises(ValueError, match="only 4-bit weights with offsets"):
            with_offset_columns(other)


def test_four_bits_with_offsets() -> None:
    """A fifth closer than symmetric blocks of the same length, and exact where sixteen levels are all there is."""
    weight = normal(32, 256) + 0.7
    affine, symmetric = quantize_with_offsets(weight), quantize(weight, bits=4)
    assert rms(affine.dequantize() - weight) < 0.85 * rms(symmetric.dequantize() - weight)
    levels = np.random.default_rng(0).integers(0, 16, (4, 64)).astype(np.float32) * 0.25 - 1.5
    levels[:, ::32], levels[:, 1::32] = -1.5, 2.25
    np.testing.assert_allclose(quantize_with_offsets(levels).dequantize(), levels, atol=1e-6)
    flat = np.full((1, 32), 3.25, np.float32)
    np.testing.assert_allclose(quantize_with_offsets(flat).dequantize(), flat, rtol=1e-6)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_four_bits_with_offsets_refuse_what_is_no_number(value: float) -> None:
    weight = normal(2, 64)
    weight[1, 3] = value
    with pytest.raises(WeightsError, match="infinite or not numbers"):
        quantize_with_offsets(weight)
