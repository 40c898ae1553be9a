"""Float types as raw bytes: how large they are, and whether what lies there are finite numbers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

ITEM_SIZE = {"float32": 4, "float16": 2, "bfloat16": 2}
"""Bytes of a number, by NumPy type name."""
_EXPONENTS = {"float32": 0x7F800000, "float16": 0x7C00, "bfloat16": 0x7F80}
"""The bits that are all set in what is not finite (IEEE 754)."""


def is_finite(data: npt.NDArray[np.uint8], dtype: str) -> bool:
    """Whether raw bytes of a float type are finite numbers, all of them."""
    bits = _EXPONENTS[dtype]
    return not (np.bitwise_and(data.view(f"u{ITEM_SIZE[dtype]}"), bits) == bits).any()
