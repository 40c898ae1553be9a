"""Which replica a conversation belongs to: rendezvous hashing, and its second choice where the first is loaded.

    key ──► a score for each replica; the highest is the first choice, the next one the second, …

A replica that goes gives its keys to their second choices, and one that comes takes the keys that it scores highest
for: nothing else moves. A first choice that has `spill` requests is passed over for the second, which is the same one
each time: so a conversation's prefix is known in two places at most, until both are loaded.
`benchmarks/routing.py` has others beside it, with a thousand replicas.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt

Hashes = npt.NDArray[np.uint64]
T = TypeVar("T")


def hashed(text: str) -> int:
    """64 bits of a name or a key, the same in every process."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")


def scores(key: int, replicas: Hashes) -> Hashes:
    """How much a key belongs to each replica. key, replicas: hashes; replicas: [N] uint64; returns [N] uint64."""
    mixed = replicas ^ np.uint64(key)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):  # SplitMix64's finalizer
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(mixed ^ (mixed >> np.uint64(31)))


class Placement:
    """Replicas by their names, and what belongs to which."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self._hashes = np.array([hashed(name) for name in self.names], np.uint64)

    def order(self, key: int, count: int) -> list[int]:
        """The places of a key's first `count` choices, the first one first. key: its hash."""
        found = scores(key, self._hashes)
        most = np.argpartition(found, -count)[-count:] if count < len(found) else np.arange(len(found))
        return [int(place) for place in most[np.argsort(found[most])[::-1]]]


def preferred(order: Sequence[T], load: Callable[[T], int], spill: int) -> list[T]:
    """Replicas as they are to be tried: first the first that is not loaded, or the less loaded of the first two."""
    for place, replica in enumerate(order):
        if load(replica) < spill:
            return [replica, *order[:place], *order[place + 1 :]]
    first = min(order[:2], key=load)
    return [first, *(replica for replica in order if replica is not first)]
