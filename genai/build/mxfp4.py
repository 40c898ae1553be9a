"""MXFP4 weights as exact 8-bit blocks, and checkpoints that hold stacks of them.

32 numbers of 4 bits (E2M1) share a power of two. Twice such a number is whole and fits 8 bits, with half the power as
the scale. OCP Microscaling Formats v1.0; gpt-oss's checkpoints have

    X_blocks  [E, N, K / 32, 16]  uint8, the earlier number in the low half of a byte
    X_scales  [E, N, K / 32]      uint8, the exponent plus 127
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt

from genai.build.source import JSON, BlockWeight, FloatArray
from genai.build.stored import StackSource
from genai.errors import WeightsError

BLOCK_SIZE = 32
LEVELS: npt.NDArray[np.uint8] = (np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12]) + 128).astype(
    np.uint8
)
"""Twice each of the sixteen numbers, around the zero point of 8 bits."""
_BLOCKS, _SCALES = "_blocks", "_scales"


def scales_of(exponents: npt.NDArray[np.uint8]) -> FloatArray:
    """The scales that belong to `LEVELS`. The two smallest are subnormal."""
    return np.ldexp(np.float32(1), exponents.astype(np.int32) - 128).astype(np.float32)


class Mxfp4Source:
    """A checkpoint whose stacks `X_blocks` are shown as what they hold, [E, N, K], and their scales not at all.

    Raises: WeightsError for blocks without scales, and for shapes that do not fit each other.
    """

    def __init__(self, source: StackSource) -> None:
        self._source = source
        self._packed = {name for name in source.names() if name.endswith(_BLOCKS)}
        for name in self._packed:
            scales = _scales_of(name)
            if scales not in source.names():
                raise WeightsError(f"the checkpoint has {name!r} without {scales!r}")
            shape = source.shape(name)
            if len(shape) != 4 or shape[3] != BLOCK_SIZE // 2 or source.shape(scales) != shape[:3]:
                raise WeightsError(
                    f"tensors {name!r} {shape} and {scales!r} {source.shape(scales)} are no MXFP4 blocks"
                )

    @property
    def config(self) -> Mapping[str, JSON]:
        """The checkpoint's configuration."""
        return self._source.config

    def names(self) -> Collection[str]:
        """Every tensor's name, without those of scales."""
        scales = {_scales_of(name) for name in self._packed}
        return [name for name in self._source.names() if name not in scales]

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape. Raises: WeightsError."""
        shape = self._source.shape(name)
        return (*shape[:2], shape[2] * BLOCK_SIZE) if name in self._packed else shape

    def read(self, name: str, rows: slice | None = None) -> FloatArray:
        """A tensor, or a stretch of its first axis, as float32. Raises: WeightsError."""
        if name not in self._packed:
            return self._source.read(name, rows)
        return np.stack([self.read_item(name, index) for index in range(self.shape(name)[0])[rows or slice(None)]])

    def read_item(self, name: str, index: int) -> FloatArray:
        """One item along a tensor's first axis, as float32. Raises: WeightsError."""
        blocks = self.read_item_blocks(name, index)
        return self._source.read_item(name, index) if blocks is None else blocks.dequantize()

    def read_blocks(self, name: str, rows: slice | None = None) -> BlockWeight | None:
        """None: what is packed has three dimensions, and is read item by item."""
        return None if name in self._packed else self._source.read_blocks(name, rows)

    def read_item_blocks(self, name: str, index: int) -> BlockWeight | None:
        """One item as the checkpoint's own blocks [N, K], exact; None of a tensor that has none."""
        if name not in self._packed:
            return self._source.read_item_blocks(name, index)
        packed = self._source.read_item(name, index).astype(np.uint8)
        exponents = self._source.read_item(_scales_of(name), index).astype(np.uint8)
        halves = np.stack([packed & np.uint8(15), packed >> np.uint8(4)], axis=-1)
        return BlockWeight(
            values=LEVELS[halves].reshape(len(packed), -1),
            scales=scales_of(exponents),
            bits=8,
            block_size=BLOCK_SIZE,
        )


def _scales_of(blocks: str) -> str:
    return blocks.removesuffix(_BLOCKS) + _SCALES
