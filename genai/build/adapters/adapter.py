"""An adapter in memory: for each product that it changes, two small matrices whose product is added to the weight.

y = x · Wᵀ   ─►   y = x · Wᵀ + x · A · B       A: [in, rank], B: [rank, out], the adapter's own scale in B
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from genai.build.source import FloatArray
from genai.errors import AdapterError


@dataclass(frozen=True, slots=True, kw_only=True)
class LowRank:
    """What is added to one product: first [in, rank], second [rank, out], float32."""

    first: FloatArray
    second: FloatArray

    @classmethod
    def of(cls, a: FloatArray, b: FloatArray, scale: float) -> LowRank:
        """From the matrices as they are published, a [rank, in] and b [out, rank].

        The scale, and a power of two that leaves the product as it is, make the largest numbers of both about equal:
        where they are kept in 16 bits, neither is lost below the smallest.
        """
        first, second = np.ascontiguousarray(a.T), np.ascontiguousarray(b.T) * np.float32(scale)
        sizes = [float(np.abs(each).max(initial=0.0)) for each in (first, second)]
        if all(np.isfinite(size) and size > 0 for size in sizes):
            shift = np.float32(2.0 ** round(np.log2(sizes[1] / sizes[0]) / 2))
            first, second = first * shift, second / shift
        return cls(first=first, second=second)

    @property
    def rank(self) -> int:
        """What both have in common."""
        return int(self.first.shape[1])

    def change(self, rows: slice | None = None) -> FloatArray:
        """What is added to the weight [out, in], or to these rows of it."""
        second = self.second if rows is None else self.second[:, rows]
        product: FloatArray = (self.first @ second).T
        return product


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """An adapter. source: where it was read; products: what it changes, by the names that graphs have for products."""

    source: str
    products: Mapping[str, LowRank]

    @property
    def rank(self) -> int:
        """The largest of its products'."""
        return max(each.rank for each in self.products.values())

    def digest(self) -> bytes:
        """What tells this adapter from others, wherever it lies: 16 bytes."""
        summed = hashlib.blake2b(digest_size=16)
        for name in sorted(self.products):
            each = self.products[name]
            summed.update(repr((name, each.first.shape, each.second.shape)).encode())
            summed.update(np.ascontiguousarray(each.first).data)
            summed.update(np.ascontiguousarray(each.second).data)
        return summed.digest()


def checked(source: str, products: Mapping[str, LowRank]) -> Adapter:
    """An adapter that changes something, by finite numbers. Raises: AdapterError."""
    if not products:
        raise AdapterError(f"{source} changes nothing: it has no LoRA matrices")
    for name, each in products.items():
        if not (np.isfinite(each.first).all() and np.isfinite(each.second).all()):
            raise AdapterError(f"{source}: its matrices for {name} are not all finite numbers")
    return Adapter(source=source, products=products)
