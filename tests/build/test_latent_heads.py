"""The matrices of a latent's heads: one by one or together, as floats and as integers."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import pytest

from genai.build.graph import ExternalData, GraphBuilder
from genai.build.latent_heads import KEYS, VALUES, block_heads, float_heads
from genai.build.precision import Plan
from genai.build.quantize import quantize, quantize_with_offsets
from genai.build.source import BlockWeight, FloatArray
from genai.build.spec import LatentSpec, RotarySpec
from genai.build.weights import Weights
from genai.config import Precision
from genai.errors import WeightsError

HEADS, LATENT, PLAIN, VALUE = 3, 128, 64, 32
SPEC = LatentSpec(
    num_heads=HEADS,
    latent_size=LATENT,
    plain_size=PLAIN,
    value_size=VALUE,
    rotary=RotarySpec(inverse_frequencies=(1.0, 0.1)),
    scale=1.0,
)
PREFIX = "model.layers.0.self_attn"
RNG = np.random.default_rng(0)
KEY_MATRICES = RNG.standard_normal((HEADS, LATENT, PLAIN)).astype(np.float32)
VALUE_MATRICES = RNG.standard_normal((HEADS, VALUE, LATENT)).astype(np.float32)
TOGETHER = np.concatenate([KEY_MATRICES.swapaxes(1, 2), VALUE_MATRICES], axis=1).reshape(-1, LATENT)


class Arrays:
    """A checkpoint in memory, of floats or of blocks."""

    def __init__(self, arrays: dict[str, FloatArray], blocks: dict[str, BlockWeight]) -> None:
        self.config: dict[str, object] = {}
        self._blocks = {f"{PREFIX}.{name}.weight": block for name, block in blocks.items()}
        self._arrays = {f"{PREFIX}.{name}.weight": array for name, array in arrays.items()}
        self._arrays |= {name: block.dequantize() for name, block in self._blocks.items()}

    def names(self) -> Collection[str]:
        return self._arrays.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._arrays[name].shape

    def read(self, name: str, rows: slice | None = None) -> FloatArray:
        return self._arrays[name][rows or slice(None)]

    def read_blocks(self, name: str, rows: slice | None = None) -> BlockWeight | None:
        return self._blocks.get(name)


def weights(
    folder: Path, precision: Precision, arrays: dict[str, FloatArray], blocks: dict[str, BlockWeight] | None = None
) -> Weights:
    with ExternalData(folder / "data") as data:
        return Weights(GraphBuilder(data), Arrays(arrays, blocks or {}), Plan.of(precision, "cpu"))  # type: ignore[arg-type]


def one_by_one() -> dict[str, FloatArray]:
    named = {f"k_b_proj.{head}": matrix for head, matrix in enumerate(KEY_MATRICES)}
    return named | {f"v_b_proj.{head}": matrix for head, matrix in enumerate(VALUE_MATRICES)}


@pytest.mark.parametrize("arrays", [one_by_one(), {"kv_b_proj": TOGETHER}], ids=["one by one", "together"])
def test_both_forms_are_the_same_heads(tmp_path: Path, arrays: dict[str, FloatArray]) -> None:
    floats = weights(tmp_path, "f32", arrays)
    np.testing.assert_array_equal(list(float_heads(floats, SPEC, PREFIX, KEYS)), KEY_MATRICES)
    np.testing.assert_array_equal(list(float_heads(floats, SPEC, PREFIX, VALUES)), VALUE_MATRICES)
    floats.refuse_unused()


@pytest.mark.parametrize("precision", ["int8", "int4", "auto"])
@pytest.mark.parametrize("arrays", [one_by_one(), {"kv_b_proj": TOGETHER}], ids=["one by one", "together"])
def test_floats_are_rounded_to_8_bits(tmp_path: Path, arrays: dict[str, FloatArray], precision: Precision) -> None:
    integers = weights(tmp_path, precision, arrays)
    for part, matrices in ((KEYS, KEY_MATRICES), (VALUES, VALUE_MATRICES)):
        found = list(block_heads(integers, SPEC, PREFIX, part))
        assert [name for name, _ in found] == [f"{PREFIX}.{part}.{head}" for head in range(HEADS)]
        for (_, block), matrix in zip(found, matrices, strict=True):
            assert (block.bits, block.block_size, block.offsets) == (8, 64, None)
            np.testing.assert_array_equal(block.dequantize(), quantize(matrix, bits=8, block_size=64).dequantize())
    integers.refuse_unused()


@pytest.mark.parametrize(("precision", "bits"), [("auto", 4), ("int4", 4), ("int8", 8)])
def test_blocks_of_a_file_are_kept_exactly(tmp_path: Path, precision: Precision, bits: int) -> None:
    stored = {name: quantize(matrix, bits=4, block_size=32) for name, matrix in one_by_one().items()}
    for name, block in block_heads(weights(tmp_path, precision, {}, stored), SPEC, PREFIX, KEYS):
        assert block.bits == bits
        np.testing.assert_array_equal(block.dequantize(), stored[name.removeprefix(f"{PREFIX}.")].dequantize())


def test_blocks_with_offsets_become_8_bits(tmp_path: Path) -> None:
    """A sum for each of so many small products would take longer than the products."""
    stored = {name: quantize_with_offsets(matrix) for name, matrix in one_by_one().items()}
    for name, block in block_heads(weights(tmp_path, "auto", {}, stored), SPEC, PREFIX, VALUES):
        assert (block.bits, block.offsets) == (8, None)
        exact = stored[name.removeprefix(f"{PREFIX}.")].dequantize()
        np.testing.assert_allclose(block.dequantize(), exact, atol=np.abs(exact).max() / 250)


@pytest.mark.parametrize(
    ("arrays", "told"),
    [
        ({}, "no tensor .*k_b_proj.0.weight"),
        ({"kv_b_proj": TOGETHER[1:]}, r"shape \[287, 128\], its configuration says \[288, 128\]"),
        ({"k_b_proj.0": KEY_MATRICES[0].T}, r"shape \[64, 128\], its configuration says \[128, 64\]"),
    ],
)
@pytest.mark.parametrize("precision", ["f32", "int8"])
def test_what_is_missing_or_misshapen(
    tmp_path: Path, arrays: dict[str, FloatArray], told: str, precision: Precision
) -> None:
    read = float_heads if precision == "f32" else block_heads
    with pytest.raises(WeightsError, match=told):
        list(read(weights(tmp_path, precision, arrays), SPEC, PREFIX, KEYS))
