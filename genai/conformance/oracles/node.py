"""A node as an oracle sees it: inputs in float64, attributes with their defaults."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from genai.conformance.case import Array, Attributes

Floats: TypeAlias = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """given: inputs by name, float64 but for indices, truths and packed bytes; types: what they are in the row."""

    given: Mapping[str, Array]
    attributes: Attributes
    types: Mapping[str, str]

    def has(self, name: str) -> bool:
        """Whether an input is there."""
        return name in self.given

    def floats(self, name: str) -> Floats:
        """An input in float64."""
        return np.asarray(self.given[name], np.float64)

    def integers(self, name: str) -> npt.NDArray[np.int64]:
        """An input in int64."""
        return np.asarray(self.given[name], np.int64)

    def number(self, name: str, default: float) -> float:
        """An attribute that is a number."""
        return float(str(self.attributes.get(name, default)))

    def integer(self, name: str, default: int = 0) -> int:
        """An attribute that is a whole number."""
        return int(str(self.attributes.get(name, default)))

    def text(self, name: str, default: str = "") -> str:
        """An attribute that is text."""
        return str(self.attributes.get(name, default))


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + e^-x)."""
    return np.asarray(1 / (1 + np.exp(-x)), np.float64)


def rms_normed(x: Floats, epsilon: float) -> Floats:
    """x divided by the root of the mean of its squares, over the last axis."""
    return np.asarray(x / np.sqrt(np.mean(x * x, axis=-1, keepdims=True) + epsilon), np.float64)


def rotated(x: Floats, cos: Floats, sin: Floats, *, is_interleaved: bool = False) -> Floats:
    """x: [..., T, D]; cos, sin: [..., T, R / 2]: the first R numbers turned by angles, the rest as they are."""
    size = 2 * cos.shape[-1]
    turned, rest = x[..., :size], x[..., size:]
    low, high = (turned[..., 0::2], turned[..., 1::2]) if is_interleaved else np.split(turned, 2, axis=-1)
    parts = [low * cos - high * sin, high * cos + low * sin]
    joined = np.stack(parts, axis=-1).reshape(turned.shape) if is_interleaved else np.concatenate(parts, axis=-1)
    return np.concatenate([joined, rest], axis=-1)


def unpacked(data: Array, bits: int) -> npt.NDArray[np.uint8]:
    """Bytes [..., n] as numbers [..., n * 8 / bits], the lowest bits first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    numbers = np.asarray(data, np.uint8)[..., None] >> shifts & np.uint8((1 << bits) - 1)
    return numbers.reshape(*data.shape[:-1], -1)
