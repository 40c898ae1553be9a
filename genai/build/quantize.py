"""Integer weights: rounding to blocks, and the byte layout that ONNX Runtime's block operators read.

What is packed is symmetric: no zero points are stored, and the operators' default, `2 ** (bits - 1)`, stands for 0. A
zero point would have to be a whole number, and no file's minimum is one (SmolLM2: mean KL 0.4). A weight's offsets go
into further columns instead (`with_offset_columns`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from genai.build.source import BlockWeight, FloatArray
from genai.errors import WeightsError

ByteArray: TypeAlias = npt.NDArray[np.uint8]
Bits: TypeAlias = Literal[4, 8]

# Where a 4-bit block's largest element may land: -8 is the end of the range, 7 the other one; outside it the element
# is clipped so that the others get finer steps, inside it the steps are coarser and nothing is clipped.
_TARGETS_4 = (-9.0, -8.5, -8.0, -7.5, -7.0, 7.0, 7.5, 8.0)
# Shares of a 4-bit block's range that its sixteen steps may span at first; what is outside is clipped.
_SPANS_4 = (1.0, 0.9, 0.8)
_FITS_4 = 2
_SMALLEST_SCALE = 1e-36
_CHUNK_ELEMENTS = 1 << 17
_MAX_THREADS = 8


def quantize(weight: FloatArray, *, bits: Bits, block_size: int = 32) -> BlockWeight:
    """Round a weight to blocks along its last axis.

    weight: [N, K] float32. In 4 bits each block's scale is the one with the least squared error of a small search, in
    8 bits its largest element becomes 127. If K is no multiple of `block_size` the last block of a row is shorter.
    Raises: WeightsError if the weight has values that are not finite.
    """
    return _rounded(weight.shape, lambda rows: weight[rows], bits, block_size)


def quantize_with_offsets(weight: FloatArray, *, block_size: int = 32) -> BlockWeight:
    """Round a weight [N, K] float32 to 4-bit blocks with an offset each, K a multiple of `block_size`.

    Scale and offset are fitted by least squares to the steps that each of `_SPANS_4` gives, and the steps to them; the
    best fit is kept. Large weights count more, as they do in a product (Gemma 3 270M: mean KL 0.140, alike 0.148).
    Raises: WeightsError if the weight has values that are not finite.
    """
    rows, columns = weight.shape
    values = np.empty((rows, columns), dtype=np.uint8)
    scales = np.empty((rows, columns // block_size), dtype=np.float32)
    offsets = np.empty_like(scales)

    def work(part: slice) -> None:
        blocks = weight[part].reshape(-1, columns // block_size, block_size)
        rounded, scales[part], offsets[part] = _round_with_offsets(blocks)
        values[part] = rounded.reshape(-1, columns)

    _in_chunks(rows, columns, work)
    if not (np.isfinite(scales).all() and np.isfinite(offsets).all()):
        raise WeightsError("a weight holds values that are infinite or not numbers; the checkpoint is damaged")
    return BlockWeight(values=values, scales=scales, offsets=offsets, bits=4, block_size=block_size)


def with_offset_columns(block: BlockWeight) -> BlockWeight:
    """A weight with offsets as one without, in more columns: K + 2 * the number of blocks, rounded up to whole blocks.

    A block's offset multiplies the sum of its inputs. The further columns hold the offsets as blocks of the same kind,
    and then what that rounding leaves, the same way: about 1e-3 of the largest offset is lost. They are to be
    multiplied by the inputs' sums over blocks, twice.
    """
    if block.offsets is None or block.bits != 4 or block.values.shape[1] % block.block_size:
        raise ValueError("only 4-bit weights with offsets and whole blocks have such a form")
    missing = num_offset_columns(block.values.shape[1], block.block_size) - block.offsets.shape[1]
    padded = np.pad(block.offsets, ((0, 0), (0, missing)))
    first = quantize(padded, bits=4, block_size=block.block_size)
    second = quantize(padded - first.dequantize(), bits=4, block_size=block.block_size)
    parts = (block, first, second)
    return BlockWeight(
        values=np.concatenate([part.values for part in parts], axis=1),
        scales=np.concatenate([part.scales for part in parts], axis=1),
        bits=block.bits,
        block_size=block.block_size,
    )


def num_offset_columns(num_inputs: int, block_size: int) -> int:
    """How many columns the offsets of so many inputs take: one for each block, rounded up to whole blocks."""
    return -(-num_inputs // block_size**2) * block_size


def requantized(block: BlockWeight, bits: Bits = 8, block_size: int | None = None) -> BlockWeight:
    """The nearest weight without offsets: exact if it has none, fits `bits` and has blocks of 32 or more; else rounded.

    block_size: of what is rounded anew, None for the weight's own.
    """
    if block.offsets is None and block.bits <= bits and block.block_size >= 32:
        return refined(block, bits, block.block_size)
    return _rounded(
        block.values.shape, lambda rows: block.take_rows(rows).dequantize(), bits, block_size or block.block_size
    )


def refined(block: BlockWeight, bits: int, block_size: int) -> BlockWeight:
    """The same numbers in at least as many bits and blocks at most as long, of a weight without offsets."""
    shift = np.uint8(2 ** (bits - 1) - 2 ** (block.bits - 1))
    num_blocks = -(-block.values.shape[1] // block_size)
    return BlockWeight(
        values=block.values + shift if shift else block.values,
        scales=np.repeat(block.scales, block.block_size // block_size, axis=1)[:, :num_blocks],
        bits=bits,
        block_size=block_size,
    )


def pack(block: BlockWeight) -> tuple[ByteArray, FloatArray]:
    """A weight without offsets in the layout of MatMulNBits and GatherBlockQuantized.

    Returns: data [N, blocks, block_size * bits / 8] uint8, in 4 bits the earlier element in the low nibble, and scales
    [N, blocks] float32. A short last block is filled with zeros.
    Specification: onnxruntime's docs/ContribOperators.md.
    """
    if block.offsets is not None:
        raise ValueError("a weight with offsets has no MatMulNBits form; see requantized()")
    rows, columns = block.values.shape
    padding = -columns % block.block_size
    values = block.values
    if padding:
        values = np.pad(values, ((0, 0), (0, padding)), constant_values=2 ** (block.bits - 1))
    if block.bits == 4:
        values = values[:, 0::2] | (values[:, 1::2] << np.uint8(4))
    return values.reshape(rows, block.scales.shape[1], -1), block.scales


def _rounded(shape: tuple[int, ...], read: Callable[[slice], FloatArray], bits: Bits, block_size: int) -> BlockWeight:
    """Round the rows that `read` gives, a few at a time: temporaries stay in the processor's cache."""
    rows, columns = shape
    num_blocks = -(-columns // block_size)
    values = np.empty((rows, columns), dtype=np.uint8)
    scales = np.empty((rows, num_blocks), dtype=np.float32)
    round_blocks = _round_4 if bits == 4 else _round_8

    def work(part: slice) -> None:
        with np.errstate(over="ignore", invalid="ignore"):  # infinities and what comes of them are refused below
            chunk = read(part)
            if padding := num_blocks * block_size - columns:
                chunk = np.pad(chunk, ((0, 0), (0, padding)))
            rounded, scales[part] = round_blocks(chunk.reshape(len(chunk), num_blocks, block_size))
        if not np.isfinite(scales[part]).all():
            raise WeightsError("a weight holds values that are infinite or not numbers; the checkpoint is damaged")
        values[part] = rounded.reshape(len(chunk), -1)[:, :columns]

    _in_chunks(rows, columns, work)
    return BlockWeight(values=values, scales=scales, bits=bits, block_size=block_size)


def _in_chunks(rows: int, columns: int, work: Callable[[slice], None]) -> None:
    """Do work on a few rows at a time, on several threads."""
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        for _ in pool.map(work, _row_chunks(rows, columns)):
            pass


def _row_chunks(rows: int, columns: int) -> Iterator[slice]:
    step = max(1, _CHUNK_ELEMENTS // max(1, columns))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def _inverse(scales: FloatArray) -> FloatArray:
    """1 / scales, with 0 for scales so small that the inverse would overflow."""
    return np.divide(1, scales, out=np.zeros_like(scales), where=np.abs(scales) > _SMALLEST_SCALE)


def _round_8(blocks: FloatArray) -> tuple[ByteArray, FloatArray]:
    scales = np.maximum(blocks.max(axis=-1), -blocks.min(axis=-1)) / np.float32(127)
    if not np.isfinite(scales).all():
        return np.zeros(blocks.shape, dtype=np.uint8), scales
    rounded = blocks * _inverse(scales)[..., None]
    rounded += np.float32(128.5)  # all are positive now: the cast's truncation rounds half up
    return rounded.astype(np.uint8), scales


def _round_4(blocks: FloatArray) -> tuple[ByteArray, FloatArray]:
    """Try `_TARGETS_4` for each block's largest element; each try's scale is then fitted by least squares."""
    highest, lowest = blocks.max(axis=-1), blocks.min(axis=-1)
    peaks = np.where(highest > -lowest, highest, lowest)
    if not np.isfinite(peaks).all():
        return np.zeros(blocks.shape, dtype=np.uint8), peaks
    best_fit = np.full(peaks.shape, -1, dtype=np.float32)
    best_values = np.zeros(blocks.shape, dtype=np.float32)
    best_scales = np.zeros(peaks.shape, dtype=np.float32)
    for target in _TARGETS_4:
        values = blocks * (np.float32(target) * _inverse(peaks))[..., None]
        np.rint(values, out=values)
        np.clip(values, -8, 7, out=values)
        products = np.einsum("...k,...k->...", blocks, values)
        squares = np.einsum("...k,...k->...", values, values)
        # With the best scale, products / squares, the squared error is |block|² - products² / squares.
        scales = products * _inverse(squares)
        fit = products * scales
        is_better = fit > best_fit
        np.copyto(best_fit, fit, where=is_better)
        np.copyto(best_scales, scales, where=is_better)
        np.copyto(best_values, values, where=is_better[..., None])
    best_values += 8
    return best_values.astype(np.uint8), best_scales


def _round_with_offsets(blocks: FloatArray) -> tuple[ByteArray, FloatArray, FloatArray]:
    """Values, scales and offsets of blocks [..., K]: `scales * (values - 8) + offsets`."""
    with np.errstate(over="ignore", invalid="ignore"):  # the caller refuses what is not finite
        weights = np.abs(blocks)
        weights += np.sqrt(np.mean(blocks * blocks, axis=-1, keepdims=True)) + np.float32(_SMALLEST_SCALE)
        weights /= weights.sum(axis=-1, keepdims=True)
        mean = np.einsum("...k,...k->...", weights, blocks)
        centred = blocks - mean[..., None]
        energy = np.einsum("...k,...k,...k->...", weights, centred, centred)
        lowest, highest = blocks.min(axis=-1), blocks.max(axis=-1)
        best_error = np.full_like(mean, np.inf)
        best_values, best_scales, best_offsets = np.full_like(blocks, 8), np.zeros_like(mean), mean.copy()
        for span in _SPANS_4:
            scales = (highest - lowest) * np.float32(span / 15)
            start = (highest + lowest) / 2 - scales * np.float32(7.5)
            for _ in range(_FITS_4):
                values = np.rint((blocks - start[..., None]) * _inverse(scales)[..., None])
                np.clip(values, 0, 15, out=values)
                middle = np.einsum("...k,...k->...", weights, values)
                apart = values - middle[..., None]
                products = np.einsum("...k,...k,...k->...", weights, centred, apart)
                scales = products * _inverse(np.einsum("...k,...k,...k->...", weights, apart, apart))
                start = mean - scales * middle
                error = energy - products * scales
                is_better = error < best_error
                np.copyto(best_error, error, where=is_better)
                np.copyto(best_values, values, where=is_better[..., None])
                np.copyto(best_scales, scales, where=is_better)
                np.copyto(best_offsets, start + 8 * scales, where=is_better)
    if not np.isfinite(energy).all():
        best_scales[...] = np.nan
    return best_values.astype(np.uint8), best_scales, best_offsets
