"""Keys and values of prompts seen before, by what they begin with: a system prompt or a chat history is paid once.

Tokens are cut into blocks; a block's key is the hash of everything up to its end, so equal keys mean equal prefixes:

    key 0 = H(model, tokens 0…15)   key 1 = H(key 0, tokens 16…31)   key 2 = H(key 1, …)

A lookup walks the chain until a key is missing. Blocks live in host memory, one piece of it for the whole budget, which
the operating system commits as it is first written; the least recently used go first, and a chain is touched from its
end, so that what others build on stays longest.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

BLOCK_SIZE = 16


class BlockKeys:
    """The keys of one text's blocks: each is computed once, while the text grows."""

    def __init__(self) -> None:
        self._tokens: list[int] = []
        self._keys: list[bytes] = []

    def of(self, tokens: list[int], seed: bytes) -> list[bytes]:
        """The keys of all whole blocks. What the text no longer begins with (it was rewound) is computed anew."""
        if tokens[: len(self._tokens)] != self._tokens:
            pairs = enumerate(zip(tokens, self._tokens, strict=False))
            shared = next((place for place, (new, old) in pairs if new != old), min(len(tokens), len(self._tokens)))
            del self._keys[shared // BLOCK_SIZE :], self._tokens[shared // BLOCK_SIZE * BLOCK_SIZE :]
        new = tokens[len(self._tokens) : len(tokens) // BLOCK_SIZE * BLOCK_SIZE]
        key = self._keys[-1] if self._keys else seed
        for block in np.array(new, np.int64).reshape(-1, BLOCK_SIZE):
            key = hashlib.blake2b(key + block.tobytes(), digest_size=16).digest()
            self._keys.append(key)
        self._tokens += new
        return list(self._keys)


@dataclass(frozen=True, slots=True, kw_only=True)
class BlocksStored:
    """Blocks that are held from now on, each behind the one before.

    parent: the key of the block before the first one, which is held; None if it begins a text. tokens: `BLOCK_SIZE` of
    each block.
    """

    keys: tuple[bytes, ...]
    parent: bytes | None
    tokens: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class BlocksRemoved:
    """Blocks that are held no longer."""

    keys: tuple[bytes, ...]


Listener: TypeAlias = Callable[[BlocksStored | BlocksRemoved], None]


class PrefixCache:
    """Blocks of keys and values by token prefix.

    model: whatever tells one model and precision from another; slot_bytes: of a token in each of the cache's
    buffers; max_bytes: 0 switches the cache off.
    """

    def __init__(self, model: bytes, slot_bytes: Sequence[int], max_bytes: int) -> None:
        self.listener: Listener | None = None
        """Who is told of each change, on the engine's thread, once it has been made; it may not take long, or raise."""
        self._seed = hashlib.blake2b(model, digest_size=16).digest()
        ends = [0, *itertools.accumulate(size * BLOCK_SIZE for size in slot_bytes)]
        self._parts = [*itertools.starmap(slice, itertools.pairwise(ends))]  # of a block, by buffer
        self._block_bytes = ends[-1]
        self._max_blocks = max_bytes // self._block_bytes
        self._memory: Bytes = np.empty((self._max_blocks, self._block_bytes), np.uint8)
        self._places: OrderedDict[bytes, int] = OrderedDict()
        self._free: list[int] = []  # places that hold no block, of all that have been in use

    @property
    def max_tokens(self) -> int:
        """The longest text that is held whole."""
        return self._max_blocks * BLOCK_SIZE

    @property
    def num_bytes(self) -> int:
        """Bytes of keys and values held."""
        return len(self._places) * self._block_bytes

    def keys(self, tokens: list[int], known: BlockKeys, adapter: bytes = b"") -> list[bytes]:
        """The keys of a text's whole blocks, those computed already included; none if the cache is off.

        adapter: the identity of what changes the model for it, the same for all of `known`'s life.
        """
        return known.of(tokens, self._seed + adapter) if self._max_blocks else []

    def lookup(self, keys: Sequence[bytes]) -> int:
        """How many of the first blocks are held."""
        for count, key in enumerate(keys):
            if key not in self._places:
                return count
        return len(keys)

    def take(self, keys: Sequence[bytes]) -> Iterator[Bytes]:
        """Keys and values of these blocks, which `lookup` found: one array of bytes for each buffer, copied."""
        self._touch(keys)
        places = [self._places[key] for key in keys]
        return (self._memory[places, part].reshape(-1) for part in self._parts)

    def put(self, keys: Sequence[bytes], known: int, data: Iterable[Bytes], tokens: Sequence[int]) -> None:
        """Keep a text's blocks after the first `known`, which are held.

        keys: of the whole text, no more than `max_tokens` of it; data: what `KVCache.export_row` gives for the rest;
        tokens: those of the rest.
        """
        self._touch(keys)
        num_new = len(keys) - known
        self._make_room(num_new)
        num_places = len(self._places) + len(self._free)
        self._free += range(num_places, num_places + num_new - len(self._free))
        places = self._free[len(self._free) - num_new :]
        for part, content in zip(self._parts, data, strict=True):
            self._memory[places, part] = content.reshape(num_new, -1)
        del self._free[len(self._free) - num_new :]  # now, so that nothing is held if copying fails
        self._places.update(zip(keys[known:], places, strict=True))
        self._touch(keys)
        if self.listener is not None:
            parent = keys[known - 1] if known else None
            self.listener(BlocksStored(keys=tuple(keys[known:]), parent=parent, tokens=tuple(tokens)))

    def _make_room(self, num_new: int) -> None:
        """Let go of the blocks that were used longest ago, until so many more have room."""
        removed: list[bytes] = []
        while len(self._places) + num_new > self._max_blocks:
            key, place = self._places.popitem(last=False)
            self._free.append(place)
            removed.append(key)
        if removed and self.listener is not None:
            self.listener(BlocksRemoved(keys=tuple(removed)))

    def _touch(self, keys: Sequence[bytes]) -> None:
        for key in reversed(keys):
            if key in self._places:
                self._places.move_to_end(key)
