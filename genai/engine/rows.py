"""The rows of sequences: given, filled from earlier prompts, forked, remembered and freed."""

from __future__ import annotations

import bisect
import contextlib
import itertools
from collections import abc
from collections.abc import Iterator
from dataclasses import dataclass

from genai.engine.prefix_cache import BLOCK_SIZE, Bytes, Listener, PrefixCache
from genai.engine.sequence import Sequence
from genai.errors import CapacityError
from genai.runtime.adapters import AdapterMemory, LoadedAdapter
from genai.runtime.cache import KVCache

_MAX_IDLE = 32
"""Idle rows: each is looked at for every newcomer."""
_MIN_RUN = 2
"""Last tokens of a text that are run although all of it is known: one alone would take the kernels of decoding. Their
sums differ from a prompt's in the last bits, and in 8 bits another token could come than without what is known.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowStatus:
    """One row: the tokens that it holds, and those that it has room for where it lies."""

    valid: int
    capacity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStatus:
    """The rows in the order in which they lie, how many are idle, and bytes.

    Of valid tokens' keys and values; of those in idle rows, whose room is free; of the whole arena; of prefixes.
    """

    rows: tuple[RowStatus, ...]
    num_idle: int
    used_bytes: int
    idle_bytes: int
    total_bytes: int
    prefix_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleText:
    """What an idle row holds, the keys of its whole blocks, and the adapter that it was computed with."""

    tokens: abc.Sequence[int]
    keys: abc.Sequence[bytes]
    adapter: bytes = b""

    def shared(self, tokens: abc.Sequence[int], keys: abc.Sequence[bytes], adapter: bytes = b"") -> int:
        """How many first tokens it has in common with others, whose keys and adapter these are."""
        if adapter != self.adapter:
            return 0
        both = range(min(len(keys), len(self.keys)))
        start = bisect.bisect_left(both, x=True, key=lambda block: keys[block] != self.keys[block]) * BLOCK_SIZE
        next_block = slice(start, start + BLOCK_SIZE)
        pairs = zip(self.tokens[next_block], tokens[next_block], strict=False)
        return start + sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))


class Rows:
    """Keeps each sequence's row, and what it has computed, in step with the cache.

    The row of a text that ended well stays idle where it lies, for the next turn of a chat to go on in it without a
    copy. What else begins so gets its copy from the prefix cache.
    """

    def __init__(self, cache: KVCache, prefixes: PrefixCache, adapters: AdapterMemory | None = None) -> None:
        """adapters: told which of them each row uses."""
        self._cache = cache
        self._adapters = adapters
        self._prefixes = prefixes
        self._idle: dict[int, IdleText] = {}

    def watch_prefixes(self, listener: Listener) -> None:
        """Tell somebody of the prefix cache's changes."""
        self._prefixes.listener = listener

    @property
    def usage(self) -> float:
        """Valid tokens as a share of the cache."""
        return sum(self._cache.valid(row) for row in self._cache.rows) / self._cache.num_slots

    @property
    def idle_usage(self) -> float:
        """Tokens in idle rows as a share of the cache: part of what is free."""
        return sum(self._cache.valid(row) for row in self._cache.idle) / self._cache.num_slots

    @property
    def status(self) -> CacheStatus:
        """What the cache holds at this moment. Any thread may ask; a row that comes or goes meanwhile is left out."""
        rows = []
        for group in self._cache.groups:
            for row in group.rows:
                with contextlib.suppress(KeyError):
                    rows.append(RowStatus(valid=self._cache.valid(row), capacity=self._cache.capacity(row)))
        idle = []
        for row in self._cache.idle:
            with contextlib.suppress(KeyError):
                idle.append(self._cache.valid(row))
        per_token = self._cache.shape.bytes_per_token
        return CacheStatus(
            rows=tuple(rows),
            num_idle=len(idle),
            used_bytes=sum(row.valid for row in rows) * per_token,
            idle_bytes=sum(idle) * per_token,
            total_bytes=self._cache.num_slots * per_token,
            prefix_bytes=self._prefixes.num_bytes,
        )

    @property
    def headroom(self) -> int:
        """Tokens that every row should have room to grow by when one more comes."""
        return self._cache.policy.headroom

    def fits_next_token(self, sequence: Sequence) -> bool:
        """Whether a running sequence's row takes its next token where it lies."""
        return sequence.row is None or sequence.need <= self._cache.capacity(sequence.row)

    def fit_together(self, needs: abc.Sequence[int]) -> bool:
        """Whether rows of these lengths find place at once."""
        return self._cache.would_hold(needs)

    def num_worth_running(self, needs: abc.Sequence[int]) -> int:
        """How many rows of these lengths, the first in line first, should run at once; 0: not even the first can."""
        return self._cache.num_worth_running(needs)

    @property
    def remembers(self) -> bool:
        """Whether what one sequence has computed is there for another one."""
        return self._prefixes.max_tokens > 0

    def note_known(self, sequence: Sequence) -> None:
        """Have a sequence that is queued tell how many of its tokens need not be run."""
        sequence.num_known = self._prefixes.lookup(self._keys_to_find(sequence)) * BLOCK_SIZE

    def give(self, sequence: Sequence) -> int:
        """A row that holds what is known of a sequence; its last tokens are run.

        Returns how many tokens that is. Raises: CapacityError.
        """
        keys = self._keys_to_find(sequence)
        num_blocks = self._prefixes.lookup(keys)
        known = num_blocks * BLOCK_SIZE
        idle, shared = self._find_idle(sequence, keys, known)
        if idle is not None:
            self._cache.revive(idle, shared, room=sequence.need)
            sequence.row, known = idle, shared
        elif known:
            data = self._prefixes.take(keys[:num_blocks])
            sequence.row = self._cache.import_row(data, known, room=sequence.need)
        else:
            sequence.row = self._cache.allocate(sequence.need)
        self._use_adapter(sequence)
        sequence.num_computed, sequence.num_known = known, 0
        return known

    def _find_idle(self, sequence: Sequence, keys: abc.Sequence[bytes], known: int) -> tuple[int | None, int]:
        """The idle row that has most of a sequence's first tokens, and how many; None if a copy serves better.

        keys: of the blocks that it may have; known: how many tokens can be copied. A row that holds much else is left
        to who goes on with that.
        """
        best, most = None, max(known, 1)
        for row in () if sequence.needs_all else self._cache.idle:
            shared = min(
                self._idle[row].shared(sequence.tokens, keys, _adapter_of(sequence)), len(sequence.tokens) - _MIN_RUN
            )
            is_its_own = 2 * shared >= self._cache.valid(row) or shared - known >= BLOCK_SIZE
            if shared >= most and is_its_own:
                best, most = row, shared
        return best, most

    def fork(self, source: Sequence, fork: Sequence) -> None:
        """A row for a sequence that begins as another one. Raises: CapacityError."""
        fork.row = self._cache.fork(row_of(source), source.num_computed, room=fork.need)
        self._use_adapter(fork)
        fork.num_computed = source.num_computed

    @contextlib.contextmanager
    def lent(self, num_tokens: int, adapter: LoadedAdapter | None) -> Iterator[int]:
        """A row beside those of sequences, for so many tokens, free again afterwards. Raises: CapacityError."""
        try:
            row = self._cache.allocate(num_tokens)
        except CapacityError as error:
            raise CapacityError(
                f"{num_tokens} tokens find no room beside the texts that run ({error}); wait until some have ended"
            ) from None
        try:
            if self._adapters is not None:
                self._adapters.use(row, adapter)
            yield row
        finally:
            self._leave_adapter(row)
            self._cache.free(row)

    def restore(self, sequence: Sequence, data: list[Bytes]) -> None:
        """A row with all of a sequence's keys and values. Raises: CapacityError."""
        sequence.row = self._cache.import_row(data, len(sequence.tokens), room=sequence.need)
        self._use_adapter(sequence)
        sequence.num_computed = len(sequence.tokens)

    def export(self, sequence: Sequence) -> list[Bytes]:
        """A copy of a sequence's keys and values, one array of bytes for each buffer."""
        return list(self._cache.export_row(row_of(sequence)))

    def truncate(self, sequence: Sequence) -> None:
        """Forget what a row holds beyond what counts as computed."""
        if sequence.row is not None:
            self._cache.truncate(sequence.row, sequence.num_computed)

    def remember(self, sequence: Sequence) -> None:
        """Put a sequence's whole blocks into the prefix cache."""
        if self._cache.is_damaged:
            return
        keys = self._keys(sequence, min(sequence.num_computed, self._prefixes.max_tokens))
        known = self._prefixes.lookup(keys)
        if known < len(keys):
            start, end = known * BLOCK_SIZE, len(keys) * BLOCK_SIZE
            data = self._cache.export_row(row_of(sequence), start, end)
            self._prefixes.put(keys, known, data, sequence.tokens[start:end])

    def _keys_to_find(self, sequence: Sequence) -> list[bytes]:
        """The keys of the blocks that need not be run where they are known."""
        if sequence.needs_all:
            return []
        return self._keys(sequence, max(len(sequence.tokens) - _MIN_RUN, 0))

    def _keys(self, sequence: Sequence, num_tokens: int) -> list[bytes]:
        """The keys of the whole blocks among a sequence's first tokens."""
        keys = self._prefixes.keys(sequence.tokens, sequence.block_keys, _adapter_of(sequence))
        return keys[: num_tokens // BLOCK_SIZE]

    def retire(self, sequence: Sequence) -> None:
        """Let go of the row of a sequence that ended well; what it holds stays as long as nobody needs the room."""
        row, keys = row_of(sequence), self._keys(sequence, sequence.num_computed)
        if not keys or self._cache.is_damaged:
            self.release(sequence)
            return
        self._cache.truncate(row, sequence.num_computed)
        self._cache.retire(row)
        self._leave_adapter(row)
        tokens = sequence.tokens[: sequence.num_computed]
        self._idle[row] = IdleText(tokens=tokens, keys=keys, adapter=_adapter_of(sequence))
        for old in self._cache.idle[:-_MAX_IDLE]:
            self._cache.forget(old)
        self._idle = {row: self._idle[row] for row in self._cache.idle}
        sequence.row, sequence.num_computed = None, 0

    def release(self, sequence: Sequence) -> None:
        """Free a sequence's row, if it has one."""
        if sequence.row is not None:
            self._leave_adapter(sequence.row)
            self._cache.free(sequence.row)
            sequence.row, sequence.num_computed = None, 0

    def _use_adapter(self, sequence: Sequence) -> None:
        """Have a sequence's row computed with its adapter from now on."""
        if self._adapters is not None:
            self._adapters.use(row_of(sequence), sequence.adapter)

    def _leave_adapter(self, row: int) -> None:
        if self._adapters is not None:
            self._adapters.use(row, None)


def _adapter_of(sequence: Sequence) -> bytes:
    """What tells a sequence's keys and values from those of the same tokens with another adapter, or none."""
    return b"" if sequence.adapter is None else sequence.adapter.identity


def row_of(sequence: Sequence) -> int:
    """The row of a sequence that runs."""
    assert sequence.row is not None, "a running sequence has a row"
    return sequence.row
