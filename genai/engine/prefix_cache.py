"""Keys and values of prompts seen before, by what they begin with: a system prompt or a chat history is paid once.

Tokens are cut into blocks; a block's key is the hash of everything up to its end, so equal keys mean equal prefixes:

    key 0 = H(model, tokens 0…15)   key 1 = H(key 0, tokens 16…31)   key 2 = H(key 1, …)

A lookup walks the chain until a key is missing. Blocks live in host memory, one piece of it for the whole budget, which
the operating system commits as it is first written; the least recently used go first, and a chain is touched from its
end, so that what others build on stays longest.

A model with states needs these, too, and has them for few of a text's lengths: a *snapshot* is the states after exactly
so many tokens, with keys and values of those behind the last whole block. It takes several places of a block's size,
and hangs under that block, which is touched after it and so outlives it:

    block 0 ── block 1 ── block 2 ── block 3            keys and values alone: nobody can go on from block 3
                             └ snapshot: 5 tokens more, and the states after all 53
"""

from __future__ import annotations

import hashlib
import itertools
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]

BLOCK_SIZE = 16
_log = logging.getLogger(__name__)

_FEWEST_BLOCKS = 4
"""A cache that holds no more of a text beside its snapshot is of no use."""


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
    each block. adapter: the name of the one that they were computed with; its contents are in the keys.
    """

    keys: tuple[bytes, ...]
    parent: bytes | None
    tokens: tuple[int, ...]
    adapter: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlocksRemoved:
    """Blocks that are held no longer."""

    keys: tuple[bytes, ...]


Listener: TypeAlias = Callable[[BlocksStored | BlocksRemoved], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """States that are held: under which key, of how many tokens, and those of them behind the last whole block."""

    key: bytes
    num_tokens: int
    tail: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """What is held of a text for somebody to go on from: whole blocks, and a snapshot, which states need."""

    num_tokens: int = 0
    num_blocks: int = 0
    snapshot: Snapshot | None = None


class PrefixCache:
    """Blocks of keys and values by token prefix, and snapshots of states.

    model: whatever tells one model and precision from another; slot_bytes: of a token in each of the cache's
    buffers; max_bytes: 0 switches the cache off; state_bytes: of each of a row's states.
    """

    def __init__(
        self, model: bytes, slot_bytes: Sequence[int], max_bytes: int, state_bytes: Sequence[int] = ()
    ) -> None:
        self.listener: Listener | None = None
        """Who is told of each change, on the engine's thread, once it has been made; it may not take long, or raise."""
        self._seed = hashlib.blake2b(model, digest_size=16).digest()
        self._slot_bytes, self._state_bytes = tuple(slot_bytes), tuple(state_bytes)
        ends = [0, *itertools.accumulate(size * BLOCK_SIZE for size in slot_bytes)]
        self._parts = [*itertools.starmap(slice, itertools.pairwise(ends))]  # of a block, by buffer
        self._block_bytes = ends[-1]
        self._max_places = max_bytes // self._block_bytes
        self._max_blocks = self._max_places
        if state_bytes:
            self._max_blocks -= self._num_places(BLOCK_SIZE - 1)
            if max_bytes and self._max_blocks < _FEWEST_BLOCKS:
                _log.warning(
                    "the prefix cache is off: prefix_cache_bytes=%d hold no snapshot of states of %d bytes",
                    max_bytes,
                    sum(state_bytes),
                )
            if self._max_blocks < _FEWEST_BLOCKS:
                self._max_blocks = self._max_places = 0
        self._memory: Bytes = np.empty((self._max_places, self._block_bytes), np.uint8)
        self._places: OrderedDict[bytes, tuple[int, ...]] = OrderedDict()
        self._free: list[int] = []  # places that hold nothing, of all that have been in use
        self._num_made = 0  # places that have been in use
        self._snapshots: dict[
            bytes, dict[tuple[int, ...], Snapshot]
        ] = {}  # by the last whole block's key, and the tail
        self._parents: dict[bytes, tuple[bytes, tuple[int, ...]]] = {}  # where a snapshot hangs

    @property
    def max_tokens(self) -> int:
        """The longest text that is held whole, with its snapshot."""
        return self._max_blocks * BLOCK_SIZE

    @property
    def num_bytes(self) -> int:
        """Bytes held."""
        return (self._num_made - len(self._free)) * self._block_bytes

    @property
    def num_snapshots(self) -> int:
        """How many snapshots are held."""
        return len(self._parents)

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

    def find(self, keys: Sequence[bytes], tokens: Sequence[int], most: int) -> Known:
        """What is held of a text, whose blocks these are, for somebody to go on from at most so many of its tokens."""
        count = self.lookup(keys)
        if not self._state_bytes:
            return Known(num_tokens=count * BLOCK_SIZE, num_blocks=count)
        for num_blocks in range(count, 0, -1):
            snapshots = self._snapshots.get(keys[num_blocks - 1], {})
            behind = tuple(tokens[num_blocks * BLOCK_SIZE : min((num_blocks + 1) * BLOCK_SIZE, most)])
            tail = max((tail for tail in snapshots if behind[: len(tail)] == tail), key=len, default=None)
            if tail is not None and num_blocks * BLOCK_SIZE <= most:
                return Known(num_tokens=snapshots[tail].num_tokens, num_blocks=num_blocks, snapshot=snapshots[tail])
        return Known()

    def take(self, keys: Sequence[bytes], firsts: Sequence[int] = ()) -> Iterator[Bytes]:
        """Keys and values of these blocks, which `lookup` found: one array of bytes for each buffer, copied.

        firsts: of each buffer, the first token that is asked for; blocks before it are left out.
        """
        self._touch(keys)
        places = [place for key in keys for place in self._places[key]]
        starts = [first // BLOCK_SIZE for first in firsts or [0] * len(self._parts)]
        return (self._memory[places[start:], part].reshape(-1) for part, start in zip(self._parts, starts, strict=True))

    def take_known(
        self, keys: Sequence[bytes], known: Known, firsts: Sequence[int] = ()
    ) -> tuple[Iterable[Bytes], Sequence[Bytes]]:
        """Keys and values of all that `find` found, as `take` gives them, and the states; copied."""
        keys = keys[: known.num_blocks]
        if known.snapshot is None:
            return self.take(keys, firsts), ()
        held = self._memory[[*self._places[known.snapshot.key]]].reshape(-1)
        self._places.move_to_end(known.snapshot.key)
        tail = len(known.snapshot.tail)
        sizes = [*self._state_bytes, *(tail * size for size in self._slot_bytes)]
        parts = np.split(held[: sum(sizes)], np.cumsum(sizes)[:-1])
        states, tails = parts[: len(self._state_bytes)], parts[len(self._state_bytes) :]
        return (np.concatenate(pair) for pair in zip(self.take(keys, firsts), tails, strict=True)), states

    def put(
        self,
        keys: Sequence[bytes],
        known: int,
        data: Iterable[Bytes],
        tokens: Sequence[int],
        adapter: str | None = None,
    ) -> None:
        """Keep a text's blocks after the first `known`, which are held.

        keys: of the whole text, no more than `max_tokens` of it; data: what `KVCache.export_row` gives for the rest;
        tokens: those of the rest; adapter: the name of the one that computed them, for the listener.
        """
        self._touch(keys)
        num_new = len(keys) - known
        places = self._room_for(num_new)
        for part, content in zip(self._parts, data, strict=True):
            self._memory[places, part] = content.reshape(num_new, -1)
        self._hold(zip(keys[known:], ((place,) for place in places), strict=True))
        self._touch(keys)
        if self.listener is not None:
            parent = keys[known - 1] if known else None
            stored = BlocksStored(keys=tuple(keys[known:]), parent=parent, tokens=tuple(tokens), adapter=adapter)
            self.listener(stored)

    def put_snapshot(
        self, keys: Sequence[bytes], tail: Sequence[int], states: Iterable[Bytes], data: Iterable[Bytes]
    ) -> None:
        """Keep the states after a text: its whole blocks, all of which are held, and fewer tokens than one more takes.

        data: what `KVCache.export_row` gives for the tail.
        """
        key = hashlib.blake2b(keys[-1] + np.array(tail, np.int64).tobytes() + b"states", digest_size=16).digest()
        self._touch(keys)
        if key in self._places:
            return
        places = self._room_for(self._num_places(len(tail)))
        content, end = np.empty(len(places) * self._block_bytes, np.uint8), 0
        for part in itertools.chain(states, data):
            content[end : end + part.size], end = part, end + part.size
        self._memory[places] = content.reshape(len(places), -1)
        self._hold([(key, tuple(places))])
        snapshot = Snapshot(key=key, num_tokens=len(keys) * BLOCK_SIZE + len(tail), tail=tuple(tail))
        self._snapshots.setdefault(keys[-1], {})[snapshot.tail] = snapshot
        self._parents[key] = keys[-1], snapshot.tail
        self._touch(keys)

    def _num_places(self, num_tail: int) -> int:
        """Places that a snapshot takes."""
        return -(-(sum(self._state_bytes) + num_tail * sum(self._slot_bytes)) // self._block_bytes)

    def _room_for(self, num_new: int) -> list[int]:
        """Places for so many blocks, still counted as free: of those used longest ago, if need be."""
        removed: list[bytes] = []
        while self._num_made - len(self._free) + num_new > self._max_places:
            key, places = self._places.popitem(last=False)
            self._free += places
            if key in self._parents:
                self._forget_snapshot(key)
            else:
                removed.append(key)
        if removed and self.listener is not None:
            self.listener(BlocksRemoved(keys=tuple(removed)))
        num_made = max(self._num_made, self._num_made + num_new - len(self._free))
        self._free += range(self._num_made, num_made)
        self._num_made = num_made
        return self._free[len(self._free) - num_new :]

    def _hold(self, entries: Iterable[tuple[bytes, tuple[int, ...]]]) -> None:
        """Count the last of the free places as taken, now that they are written: had that failed, nothing were held."""
        for key, places in entries:
            del self._free[len(self._free) - len(places) :]
            self._places[key] = places

    def _forget_snapshot(self, key: bytes) -> None:
        block, tail = self._parents.pop(key)
        del self._snapshots[block][tail]
        if not self._snapshots[block]:
            del self._snapshots[block]

    def _touch(self, keys: Sequence[bytes]) -> None:
        for key in reversed(keys):
            if key in self._places:
                self._places.move_to_end(key)
