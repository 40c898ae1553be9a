"""The rows of sequences: given, filled from earlier prompts, forked, remembered and freed."""

from __future__ import annotations

import contextlib
from collections import abc
from dataclasses import dataclass

from genai.engine.prefix_cache import BLOCK_SIZE, Bytes, PrefixCache
from genai.engine.sequence import Sequence
from genai.runtime.cache import KVCache


@dataclass(frozen=True, slots=True, kw_only=True)
class RowStatus:
    """One row: the tokens that it holds, and those that it has room for where it lies."""

    valid: int
    capacity: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStatus:
    """The rows in the order in which they lie, and bytes: of valid keys and values, of the whole arena, of prefixes."""

    rows: tuple[RowStatus, ...]
    used_bytes: int
    total_bytes: int
    prefix_bytes: int


class Rows:
    """Keeps each sequence's row, and what it has computed, in step with the cache."""

    def __init__(self, cache: KVCache, prefixes: PrefixCache) -> None:
        self._cache = cache
        self._prefixes = prefixes

    @property
    def usage(self) -> float:
        """Valid tokens as a share of the cache."""
        return sum(self._cache.valid(row) for row in self._cache.rows) / self._cache.num_slots

    @property
    def status(self) -> CacheStatus:
        """What the cache holds at this moment. Any thread may ask; a row that comes or goes meanwhile is left out."""
        rows = []
        for group in self._cache.groups:
            for row in group.rows:
                with contextlib.suppress(KeyError):
                    rows.append(RowStatus(valid=self._cache.valid(row), capacity=group.capacity))
        per_token = self._cache.shape.bytes_per_token
        return CacheStatus(
            rows=tuple(rows),
            used_bytes=sum(row.valid for row in rows) * per_token,
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

    def give(self, sequence: Sequence) -> int:
        """A row, filled with what the prefix cache has; at least the last token has to be run.

        Returns how many tokens that is. Raises: CapacityError.
        """
        keys = self._keys(sequence, len(sequence.tokens) - 1)
        num_blocks = 0 if sequence.lacks_prompt_logprobs else self._prefixes.lookup(keys)
        known = num_blocks * BLOCK_SIZE
        if known:
            data = self._prefixes.take(keys[:num_blocks])
            sequence.row = self._cache.import_row(data, known, room=sequence.need)
        else:
            sequence.row = self._cache.allocate(sequence.need)
        sequence.num_computed = known
        return known

    def fork(self, source: Sequence, fork: Sequence) -> None:
        """A row for a sequence that begins as another one. Raises: CapacityError."""
        fork.row = self._cache.fork(row_of(source), source.num_computed, room=fork.need)
        fork.num_computed = source.num_computed

    def restore(self, sequence: Sequence, data: list[Bytes]) -> None:
        """A row with all of a sequence's keys and values. Raises: CapacityError."""
        sequence.row = self._cache.import_row(data, len(sequence.tokens), room=sequence.need)
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
        keys = self._keys(sequence, min(sequence.num_computed, self._prefixes.max_tokens))
        known = self._prefixes.lookup(keys)
        if known < len(keys):
            start, end = known * BLOCK_SIZE, len(keys) * BLOCK_SIZE
            self._prefixes.put(keys, known, self._cache.export_row(row_of(sequence), start, end))

    def _keys(self, sequence: Sequence, num_tokens: int) -> list[bytes]:
        """The keys of the whole blocks among a sequence's first tokens."""
        return self._prefixes.keys(sequence.tokens, sequence.block_keys)[: num_tokens // BLOCK_SIZE]

    def release(self, sequence: Sequence) -> None:
        """Free a sequence's row, if it has one."""
        if sequence.row is not None:
            self._cache.free(sequence.row)
            sequence.row, sequence.num_computed = None, 0


def row_of(sequence: Sequence) -> int:
    """The row of a sequence that runs."""
    assert sequence.row is not None, "a running sequence has a row"
    return sequence.row
