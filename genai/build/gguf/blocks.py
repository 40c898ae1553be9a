"""GGUF's block formats as `BlockWeight`, without rounding: the integers stay, scales and minima become float32.

Every decoder maps blocks [n, bytes] to values [n, elements] uint8, scales [n, groups] and offsets [n, groups] or None.
Formats of 5, 6 and 8 bits get 8-bit values, those of 2, 3 and 4 bits get 4-bit values. The layouts are ggml's
(`ggml-common.h`); `gguf.quants` is the reference that tests compare with.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from genai.build import mxfp4
from genai.build.gguf.file import ByteArray, GgufFile, TensorInfo
from genai.build.source import BlockWeight, FloatArray
from genai.errors import WeightsError

Decoded: TypeAlias = tuple[ByteArray, FloatArray, FloatArray | None]

_CHUNK_ELEMENTS = 1 << 18
_ZERO_4, _ZERO_8 = 8, 128
_NIBBLE, _FOUR = np.uint8(15), np.uint8(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Format:
    """bits and block_size: of the `BlockWeight`; elements and nbytes: of one block in the file."""

    bits: int
    block_size: int
    elements: int
    nbytes: int
    decode: Callable[[ByteArray], Decoded]
    has_offsets: bool = False


def read_block_weight(file: GgufFile, info: TensorInfo) -> BlockWeight | None:
    """A matrix as the file's own blocks, or None if it is no matrix or its format has no such form.

    Raises: WeightsError if scales or minima are not finite.
    """
    block = block_weight(file.raw(info), info.ggml_type) if len(info.shape) == 2 else None
    if block is None:
        return None
    if not np.isfinite(block.scales).all() or (block.offsets is not None and not np.isfinite(block.offsets).all()):
        raise WeightsError(f"{file.path} is damaged: tensor {info.name!r} has scales that are infinite or not numbers")
    return block


def block_weight(raw: ByteArray, ggml_type: str) -> BlockWeight | None:
    """Rows of blocks [N, bytes per row] as a `BlockWeight`, or None if the format has no such form."""
    form = BLOCK_FORMATS.get(ggml_type)
    if form is None:
        return None
    rows = raw.shape[0]
    blocks = raw.reshape(-1, form.nbytes)
    groups = form.elements // form.block_size
    values = np.empty((len(blocks), form.elements), dtype=np.uint8)
    scales = np.empty((len(blocks), groups), dtype=np.float32)
    offsets = np.empty_like(scales) if form.has_offsets else None
    step = _CHUNK_ELEMENTS // form.elements
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, len(blocks), step):
            part = slice(start, start + step)
            values[part], scales[part], added = form.decode(blocks[part])
            if offsets is not None and added is not None:
                offsets[part] = added
    columns = math.prod(values.shape) // rows
    return BlockWeight(
        values=values.reshape(rows, columns),
        scales=scales.reshape(rows, -1),
        offsets=None if offsets is None else offsets.reshape(rows, -1),
        bits=form.bits,
        block_size=form.block_size,
    )


def _half(blocks: ByteArray, start: int) -> FloatArray:
    """The float16 at a byte offset of every block, as [n, 1] float32."""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: ByteArray) -> ByteArray:
    """[..., m] bytes as [..., 2, m]: all low nibbles, then all high ones."""
    return np.stack([packed & _NIBBLE, packed >> _FOUR], axis=-2)


def _pairs(packed: ByteArray) -> ByteArray:
    """[..., m] bytes as [..., 4, m]: their two-bit fields, lowest first."""
    shifts = np.array([0, 2, 4, 6], dtype=np.uint8)[:, None]
    return (packed[..., None, :] >> shifts) & np.uint8(3)


def _bits(packed: ByteArray) -> ByteArray:
    """[..., m] bytes as [..., 8, m]: their bits, lowest first."""
    shifts = np.arange(8, dtype=np.uint8)[:, None]
    return (packed[..., None, :] >> shifts) & np.uint8(1)


def _flat(values: ByteArray) -> ByteArray:
    return values.reshape(len(values), -1)


def _q4_0(blocks: ByteArray) -> Decoded:
    return _flat(_nibbles(blocks[:, 2:])), _half(blocks, 0), None


def _q4_1(blocks: ByteArray) -> Decoded:
    scale, minimum = _half(blocks, 0), _half(blocks, 2)
    return _flat(_nibbles(blocks[:, 4:])), scale, minimum + _ZERO_4 * scale


def _five_bits(high: ByteArray, low: ByteArray) -> ByteArray:
    """Fifth bits [n, 4] (one per element, in order) over nibbles [n, 16]: [n, 32], centred on the 8-bit zero point."""
    fifth = np.unpackbits(high, axis=1, bitorder="little") << _FOUR
    return (_flat(_nibbles(low)) | fifth) + np.uint8(_ZERO_8 - 16)


def _q5_0(blocks: ByteArray) -> Decoded:
    return _five_bits(blocks[:, 2:6], blocks[:, 6:]), _half(blocks, 0), None


def _q5_1(blocks: ByteArray) -> Decoded:
    scale, minimum = _half(blocks, 0), _half(blocks, 2)
    return _five_bits(blocks[:, 4:8], blocks[:, 8:]), scale, minimum + 16 * scale


def _q8_0(blocks: ByteArray) -> Decoded:
    return blocks[:, 2:] ^ np.uint8(_ZERO_8), _half(blocks, 0), None


def _scales_and_minima(packed: ByteArray) -> tuple[ByteArray, ByteArray]:
    """Eight 6-bit scales and eight 6-bit minima from the twelve bytes of Q4_K and Q5_K."""
    first, second, high = packed[:, 0:4], packed[:, 4:8], packed[:, 8:12]
    scales = np.concatenate([first & 63, (high & 15) | ((first >> 6) << 4)], axis=1)
    minima = np.concatenate([second & 63, (high >> 4) | ((second >> 6) << 4)], axis=1)
    return scales, minima


def _q4_k(blocks: ByteArray) -> Decoded:
    scales, minima = _scales_and_minima(blocks[:, 4:16])
    step = _half(blocks, 0) * scales
    values = _nibbles(blocks[:, 16:].reshape(-1, 4, 32))
    return _flat(values), step, _ZERO_4 * step - _half(blocks, 2) * minima


def _q5_k(blocks: ByteArray) -> Decoded:
    scales, minima = _scales_and_minima(blocks[:, 4:16])
    step = _half(blocks, 0) * scales
    low = _nibbles(blocks[:, 48:].reshape(-1, 4, 32)).reshape(-1, 8, 32)
    values = (low | (_bits(blocks[:, 16:48]) << _FOUR)) + np.uint8(_ZERO_8 - 16)
    return _flat(values), step, 16 * step - _half(blocks, 2) * minima


def _q6_k(blocks: ByteArray) -> Decoded:
    low = _nibbles(blocks[:, :128].reshape(-1, 2, 64)).reshape(-1, 2, 4, 32)
    high = _pairs(blocks[:, 128:192].reshape(-1, 2, 32))
    values = (low | (high << _FOUR)) + np.uint8(_ZERO_8 - 32)
    return _flat(values), _half(blocks, 208) * blocks[:, 192:208].view(np.int8), None


def _q2_k(blocks: ByteArray) -> Decoded:
    step = _half(blocks, 80) * (blocks[:, :16] & 15)
    values = _pairs(blocks[:, 16:80].reshape(-1, 2, 32)) + np.uint8(_ZERO_4 - 2)
    return _flat(values), step, 2 * step - _half(blocks, 82) * (blocks[:, :16] >> 4)


def _q3_k(blocks: ByteArray) -> Decoded:
    low, high = _nibbles(blocks[:, 96:104]), _pairs(blocks[:, 104:108])
    scales = (_flat(low) | (_flat(high) << _FOUR)).view(np.int8) - np.int8(32)
    third = _bits(blocks[:, :32]).reshape(-1, 2, 4, 32) << np.uint8(2)
    values = (_pairs(blocks[:, 32:96].reshape(-1, 2, 32)) | third) + np.uint8(_ZERO_4 - 4)
    return _flat(values), _half(blocks, 108) * scales, None


_IQ4_LEVELS: npt.NDArray[np.uint8] = (
    np.array([-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]) + _ZERO_8
).astype(np.uint8)


def _iq4_nl(blocks: ByteArray) -> Decoded:
    return _IQ4_LEVELS[_flat(_nibbles(blocks[:, 2:]))], _half(blocks, 0), None


def _iq4_xs(blocks: ByteArray) -> Decoded:
    low = _nibbles(blocks[:, 4:8]).swapaxes(1, 2)
    high = _pairs(blocks[:, 2:4]).swapaxes(1, 2)
    scales = (_flat(low) | (_flat(high) << _FOUR)).view(np.int8) - np.int8(32)
    values = _IQ4_LEVELS[_nibbles(blocks[:, 8:].reshape(-1, 8, 16))]
    return _flat(values), _half(blocks, 0) * scales, None


def _mxfp4(blocks: ByteArray) -> Decoded:
    return mxfp4.LEVELS[_flat(_nibbles(blocks[:, 1:]))], mxfp4.scales_of(blocks[:, :1]), None


BLOCK_FORMATS: dict[str, _Format] = {
    "Q4_0": _Format(bits=4, block_size=32, elements=32, nbytes=18, decode=_q4_0),
    "Q4_1": _Format(bits=4, block_size=32, elements=32, nbytes=20, decode=_q4_1, has_offsets=True),
    "Q5_0": _Format(bits=8, block_size=32, elements=32, nbytes=22, decode=_q5_0),
    "Q5_1": _Format(bits=8, block_size=32, elements=32, nbytes=24, decode=_q5_1, has_offsets=True),
    "Q8_0": _Format(bits=8, block_size=32, elements=32, nbytes=34, decode=_q8_0),
    "Q2_K": _Format(bits=4, block_size=16, elements=256, nbytes=84, decode=_q2_k, has_offsets=True),
    "Q3_K": _Format(bits=4, block_size=16, elements=256, nbytes=110, decode=_q3_k),
    "Q4_K": _Format(bits=4, block_size=32, elements=256, nbytes=144, decode=_q4_k, has_offsets=True),
    "Q5_K": _Format(bits=8, block_size=32, elements=256, nbytes=176, decode=_q5_k, has_offsets=True),
    "Q6_K": _Format(bits=8, block_size=16, elements=256, nbytes=210, decode=_q6_k),
    "IQ4_NL": _Format(bits=8, block_size=32, elements=32, nbytes=18, decode=_iq4_nl),
    "IQ4_XS": _Format(bits=8, block_size=32, elements=256, nbytes=136, decode=_iq4_xs),
    "MXFP4": _Format(bits=8, block_size=32, elements=32, nbytes=17, decode=_mxfp4),
}
"""Formats whose blocks have an exact integer form, by name; all others are read as float32."""
