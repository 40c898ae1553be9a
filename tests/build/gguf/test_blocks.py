from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType

from genai.build.gguf.blocks import BLOCK_FORMATS, block_weight, read_block_weight
from genai.build.gguf.file import GgufFile
from genai.build.quantize import requantized
from genai.errors import WeightsError

RNG = np.random.default_rng(11)
FORMS = {
    "Q4_0": (4, 32, False), "Q4_1": (4, 32, True), "Q5_0": (8, 32, False), "Q5_1": (8, 32, True),
    "Q8_0": (8, 32, False), "Q2_K": (4, 16, True), "Q3_K": (4, 16, False), "Q4_K": (4, 32, True),
    "Q5_K": (8, 32, True), "Q6_K": (8, 16, False), "IQ4_NL": (8, 32, False), "IQ4_XS": (8, 32, False),
    "MXFP4": (8, 32, False),
}  # fmt: skip
# Where each format keeps its float16 numbers, in bytes from the start of a block.
HALVES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "Q2_K": (80, 82), "Q3_K": (108,),
    "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,), "IQ4_NL": (0,), "IQ4_XS": (0,), "MXFP4": (),
}  # fmt: skip


def random_blocks(name: str, rows: int, blocks_per_row: int) -> np.ndarray:
    """Random bytes with scales and minima that a real file could have."""
    _, nbytes = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
    raw = RNG.integers(0, 256, (rows * blocks_per_row, nbytes), dtype=np.uint8)
    if name == "MXFP4":
        raw[:, 0] = RNG.integers(0, 251, len(raw))  # 12 times a larger scale is no float32
    for start in HALVES[name]:
        numbers = RNG.standard_normal((len(raw), 1)).astype(np.float16)
        raw[:, start : start + 2] = numbers.view(np.uint8).reshape(-1, 2)
    return raw.reshape(rows, -1)


def test_every_format_is_tested() -> None:
    assert FORMS.keys() == BLOCK_FORMATS.keys()


@pytest.mark.parametrize("name", FORMS)
def test_blocks_hold_what_the_reference_dequantizes(name: str) -> None:
    raw = random_blocks(name, rows=37, blocks_per_row=5)
    expected = gguf.dequantize(raw, GGMLQuantizationType[name])
    block = block_weight(raw, name)
    assert block is not None
    bits, block_size, has_offsets = FORMS[name]
    assert (block.bits, block.block_size, block.offsets is not None) == (bits, block_size, has_offsets)
    assert block.values.shape == expected.shape
    assert int(block.values.max()) < 2**bits
    actual = block.dequantize()
    if not has_offsets:
        np.testing.assert_array_equal(actual, expected)
        return
    # Only the order of one addition differs: some units in the last place of the block's largest number.
    largest = np.abs(expected).reshape(37, -1, block_size).max(axis=-1, keepdims=True)
    error = np.abs(actual - expected).reshape(37, -1, block_size)
    assert (error <= 3e-7 * np.maximum(largest, np.abs(block.offsets)[:, :, None])).all()


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_quantized_weights_come_back(name: str) -> None:
    weight = RNG.standard_normal((16, 128)).astype(np.float32)
    raw = gguf.quantize(weight, GGMLQuantizationType[name])
    block = block_weight(raw, name)
    assert block is not None
    np.testing.assert_allclose(
        block.dequantize(), gguf.dequantize(raw, GGMLQuantizationType[name]), atol=1e-6, rtol=1e-6
    )


@pytest.mark.parametrize("name", ["Q4_1", "Q6_K"])
def test_chunks_have_no_seams(name: str) -> None:
    raw = random_blocks(name, rows=300, blocks_per_row=8 if name == "Q6_K" else 64)
    whole = block_weight(raw, name)
    assert whole is not None
    for row in (0, 127, 128, 299):
        alone = block_weight(raw[row : row + 1], name)
        assert alone is not None
        np.testing.assert_array_equal(whole.values[row], alone.values[0])
        np.testing.assert_array_equal(whole.scales[row], alone.scales[0])


def test_formats_without_an_integer_form_and_vectors_have_none(tmp_path: Path) -> None:
    assert block_weight(np.zeros((1, 54), np.uint8), "TQ1_0") is None
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("vector", gguf.quantize(np.ones((64,), np.float32), GGMLQuantizationType.Q8_0),
                      raw_dtype=GGMLQuantizationType.Q8_0)  # fmt: skip
    writer.add_tensor("float", np.ones((2, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GgufFile(tmp_path / "m.gguf") as file:
        assert read_block_weight(file, file.info("vector")) is None
        assert read_block_weight(file, file.info("float")) is None


@pytest.mark.parametrize("number", [np.inf, np.nan])
@pytest.mark.parametrize("start", HALVES["Q4_1"])
def test_scales_that_are_no_numbers_are_refused(tmp_path: Path, start: int, number: float) -> None:
    raw = random_blocks("Q4_1", rows=4, blocks_per_row=1)
    raw[2, start : start + 2] = np.array([number], np.float16).view(np.uint8)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_tensor("t", raw, raw_dtype=GGMLQuantizationType.Q4_1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with GgufFile(tmp_path / "m.gguf") as file, pytest.raises(WeightsError, match="'t' has scales"):
        read_block_weight(file, file.info("t"))


@pytest.mark.slow
def test_real_files(smollm2_gguf: Path, gemma_gguf: Path) -> None:
    for path in (smollm2_gguf, gemma_gguf):
        with GgufFile(path) as file:
            for name, info in file.tensors.items():
                block = read_block_weight(file, info)
                assert (block is not None) == (info.ggml_type != "F32")
                if block is None or info.shape[0] > 10_000:
                    continue
                weight = file.read(name)
                np.testing.assert_allclose(block.dequantize(), weight, atol=2e-7 * np.abs(weight).max())
                if block.offsets is not None:
                    error = np.abs(requantized(block).dequantize() - weight).reshape(len(weight), -1, block.block_size)
                    limit = np.abs(weight).reshape(error.shape).max(axis=-1, keepdims=True) / 127 / 2
                    assert (error <= limit * 1.0001 + 1e-9).all()
