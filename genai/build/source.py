"""What the graph builder needs from a checkpoint, whatever file format holds it.

A source presents its tensors under Hugging Face names (`model.layers.0.self_attn.q_proj.weight`) and in Hugging Face's
conventions (rotary halves rather than pairs; norm weights as the model class stores them), one tensor at a time, so
that a build's peak memory stays near the size of what it writes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import numpy as np
import numpy.typing as npt

JSON: TypeAlias = "bool | int | float | str | list[JSON] | dict[str, JSON] | None"
FloatArray: TypeAlias = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockWeight:
    """A weight [N, K] held as integers with one scale per block of K.

    `w[n, k] = scales[n, b] * (values[n, k] - 2 ** (bits - 1)) + offsets[n, b]` with `b = k // block_size`.
    values: [N, K] uint8, each below `2 ** bits`; scales: [N, K / block_size] float32; offsets: the same, or None: zero.
    """

    values: npt.NDArray[np.uint8]
    scales: FloatArray
    bits: int
    block_size: int
    offsets: FloatArray | None = None

    def dequantize(self) -> FloatArray:
        """The weight as [N, K] float32."""
        rows, columns = self.values.shape
        values = np.pad(self.values, ((0, 0), (0, -columns % self.block_size)))
        blocks = values.reshape(rows, -1, self.block_size).astype(np.float32) - np.float32(2 ** (self.bits - 1))
        blocks *= self.scales[:, :, None]
        if self.offsets is not None:
            blocks += self.offsets[:, :, None]
        return blocks.reshape(rows, -1)[:, :columns]

    def take_rows(self, rows: npt.NDArray[np.int64] | slice) -> BlockWeight:
        """The same weight with only these rows, in this order."""
        offsets = None if self.offsets is None else self.offsets[rows]
        return replace(self, values=self.values[rows], scales=self.scales[rows], offsets=offsets)


class WeightSource(Protocol):
    """A checkpoint: its configuration and its tensors, read on demand."""

    @property
    def config(self) -> Mapping[str, JSON]:
        """The keys of Hugging Face's `config.json`, `model_type` among them."""
        ...

    def names(self) -> Collection[str]:
        """Every tensor's name."""
        ...

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape without reading its data. Raises: WeightsError if it is missing."""
        ...

    def read(self, name: str, rows: slice | None = None) -> FloatArray:
        """A tensor as float32, [out, in] for matrices. Raises: WeightsError if it is missing or damaged.

        rows: those of a table alone, from one to before another: for what is too large to be in memory as a whole.
        """
        ...

    def read_blocks(self, name: str, rows: slice | None = None) -> BlockWeight | None:
        """The tensor's own integer blocks, exact, or None if the file does not hold it in 4, 5, 6 or 8 bits so."""
        ...
