"""An adapter's matrices as the graph reads them: those of one value side by side, filled up to the room's rank.

    lora_a.q+k+v   [K, 3·R]   │ A of q, 0 … │ A of k, 0 … │ A of v, 0 … │
    lora_b.q       [R, N]     B of q, and rows of 0

As bytes, each column of A has a factor of its own, which is multiplied into the row of B that reads it; so has each
column of what that gives, which is `lora_scales`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import ml_dtypes
import numpy as np
import numpy.typing as npt

from genai import contract
from genai.contract import ADAPTER_BYTES, ADAPTER_ZERO, AdaptedProduct, AdapterRoom
from genai.errors import AdapterError
from genai.runtime.providers.base import Bytes

FloatArray = npt.NDArray[np.float32]
Matrices = Mapping[str, tuple[FloatArray, FloatArray]]
"""By product: the first matrix [in, rank], and the second [rank, out]."""
_Stored = tuple[str, npt.NDArray[np.generic]]


@dataclass(frozen=True, slots=True, kw_only=True)
class FittedAdapter:
    """An adapter as it will lie in memory: raw bytes for each of the graph's inputs that hold adapters."""

    name: str
    identity: bytes
    data: Mapping[str, Bytes]


def fit(room: AdapterRoom, name: str, identity: bytes, matrices: Matrices) -> FittedAdapter:
    """An adapter for a graph with this room. Raises: AdapterError if it is not for this graph."""
    known = {each.name: each for each in room.products}
    for product, (first, second) in matrices.items():
        if product not in known:
            raise AdapterError(
                f"adapter {name!r} changes {product}, for which this package has no room (experts and heads of "
                "latent attention have none); if the base has no such module, it belongs to another model"
            )
        _check(name, known[product], room.rank, first, second)
    data: dict[str, Bytes] = {}
    with np.errstate(all="ignore"):  # what is not finite is refused
        for group in room.groups:
            for stack, values in _stored(room, group, matrices):
                if not np.isfinite(values.astype(np.float32)).all():
                    changed = ", ".join(each.name for each in group if each.name in matrices)
                    raise AdapterError(f"adapter {name!r}: its numbers for {changed} are too large for {room.dtype}")
                data[stack] = values.reshape(-1).view(np.uint8)
    return FittedAdapter(name=name, identity=identity, data=data)


def _check(name: str, known: AdaptedProduct, rank: int, first: FloatArray, second: FloatArray) -> None:
    if first.shape[0] != known.num_inputs or second.shape[1] != known.num_outputs:
        raise AdapterError(
            f"adapter {name!r} changes {known.name} of {first.shape[0]} inputs and {second.shape[1]} outputs, "
            f"which here has {known.num_inputs} and {known.num_outputs}: it belongs to another model"
        )
    if (own := first.shape[1]) > rank:
        raise AdapterError(
            f"adapter {name!r} has rank {own}, and this package was built for at most {rank}; build it "
            f"with --max-rank {own}"
        )


def _stored(room: AdapterRoom, group: Sequence[AdaptedProduct], matrices: Matrices) -> Iterator[_Stored]:
    """What the inputs of one group hold, by their names."""
    wide = np.zeros((group[0].num_inputs, len(group), room.rank), np.float32)
    tall = [np.zeros((room.rank, each.num_outputs), np.float32) for each in group]
    for index, each in enumerate(group):
        if each.name in matrices:
            first, second = matrices[each.name]
            wide[:, index, : first.shape[1]], tall[index][: len(second)] = first, second
    joined = contract.lora_a(each.name for each in group)
    if room.dtype == ADAPTER_BYTES:
        data, factors = _as_bytes(wide.reshape(len(wide), -1))
        yield joined, data
        for each, own, second in zip(group, factors.reshape(len(group), -1), tall, strict=True):
            data, scales = _as_bytes(own[:, None] * second)
            yield contract.lora_b(each.name), data
            yield contract.lora_scales(each.name), scales
    else:
        dtype = np.dtype(ml_dtypes.bfloat16 if room.dtype == "bfloat16" else room.dtype)
        yield joined, wide.astype(dtype)
        for each, second in zip(group, tall, strict=True):
            yield contract.lora_b(each.name), second.astype(dtype)


def _as_bytes(matrix: FloatArray) -> tuple[Bytes, FloatArray]:
    """A matrix's numbers as bytes, and each column's factor, which is not finite where one of its numbers is not."""
    factors = np.abs(matrix).max(axis=0) / np.float32(127)
    rounded = np.rint(np.nan_to_num(matrix / np.where(factors > 0, factors, 1), posinf=0, neginf=0))
    return (rounded + ADAPTER_ZERO).astype(np.uint8), factors
