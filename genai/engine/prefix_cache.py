"""Keys and values of prompts seen before, by what they begin with: a system prompt or a chat history is paid once.

Tokens are cut into blocks; a block's key is the hash of everything up to its end, so equal keys mean equal prefixes:

    key 0 = H(model, tokens 0…15)   key 1 = H(key 0, tokens 16…31)   key 2 = H(key 1, …)

A lookup walks the chain until a key is missing. Blocks live in host memory within a byte budget; the least recently
used go first, and a chain is touched from its end, so that what others build on stays longest.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

BLOCK_SIZE = 16


class PrefixCache:
    """Blocks of keys and values by token prefix.

    model: whatever tells one model, precision and adapter from another; max_bytes: 0 switches the cache off.
    """

    def __init__(self, model: bytes, slot_bytes: int, num_buffers: int, max_bytes: int) -> None:
        self._seed = hashlib.blake2b(model, digest_size=16).digest()
        self._block_bytes = slot_bytes * BLOCK_SIZE
        self._num_buffers = num_buffers
        self._max_blocks = max_bytes // (self._block_bytes * num_buffers)
        self._blocks: OrderedDict[bytes, list[Bytes]] = OrderedDict()

    @property
    def is_on(self) -> bool:
        """Whether there is room for a single block."""
        return self._max_blocks > 0

    @property
    def max_tokens(self) -> int:
        """The longest text that is held whole."""
        return self._max_blocks * BLOCK_SIZE

    @property
    def num_bytes(self) -> int:
        """Bytes of keys and values held."""
        return len(self._blocks) * self._block_bytes * self._num_buffers

    def lookup(self, tokens: Sequence[int]) -> int:
        """How many of the first tokens are held: whole blocks only."""
        count = 0
        for key in self._keys(tokens):
            if key not in self._blocks:
                break
            count += 1
        return count * BLOCK_SIZE

    def take(self, tokens: Sequence[int]) -> list[Bytes]:
        """Keys and values of these tokens, which `lookup` found: one array of bytes for each buffer, copied."""
        keys = self._keys(tokens)
        self._touch(keys)
        blocks = [self._blocks[key] for key in keys]
        return [np.concatenate([block[index] for block in blocks]) for index in range(self._num_buffers)]

    def put(self, tokens: Sequence[int], start: int, data: Sequence[Bytes]) -> None:
        """Keep keys and values; data: what `KVCache.export_row(row, start, end)` gave for whole blocks from `start`."""
        keys = self._keys(tokens)[: self._max_blocks]
        self._touch(keys)
        num_new = sum(key not in self._blocks for key in keys)
        while len(self._blocks) + num_new > self._max_blocks:  # first, so that the limit holds meanwhile
            self._blocks.popitem(last=False)
        for index, key in enumerate(keys[start // BLOCK_SIZE :]):
            part = slice(index * self._block_bytes, (index + 1) * self._block_bytes)
            self._blocks[key] = [buffer[part].copy() for buffer in data]
        self._touch(keys)

    def _touch(self, keys: Sequence[bytes]) -> None:
        for key in reversed(keys):
            if key in self._blocks:
                self._blocks.move_to_end(key)

    def _keys(self, tokens: Sequence[int]) -> list[bytes]:
        """The keys of all whole blocks; none if not a single block may be kept."""
        if not self._max_blocks:
            return []
        data = np.asarray(tokens, np.int64)
        keys, key = [], self._seed
        for start in range(0, len(tokens) - BLOCK_SIZE + 1, BLOCK_SIZE):
            key = hashlib.blake2b(key + data[start : start + BLOCK_SIZE].tobytes(), digest_size=16).digest()
            keys.append(key)
        return keys
