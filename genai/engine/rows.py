"""The rows of sequences: given, filled from earlier prompts, forked, remembered and freed.

States cannot be cut back to fewer tokens. So where a row has to hold less than it does, it goes back to what was kept
of it, to a snapshot, or to nothing, and what its sequence has beyond that is run again. Snapshots are taken

    at a text's end, or where it gives way         the next turn of a chat goes on there
    where two texts part (`Sequence.checkpoints`)  blocks that are held say where: the second text runs up to there,
                                                   and the third one begins there
    before the end of a long prompt                who asks again needs it, or what a chat template writes otherwise
                                                   once there is an answer

What windows see of a row no longer goes while it runs. It is remembered before that, so that a row which cannot be cut
back any further (`KVCache.can_keep`) gets what it had there from the prefix cache, and others may begin with it.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import weakref
from collections import abc
from collections.abc import Iterator
from dataclasses import dataclass

from genai.engine.prefix_cache import BLOCK_SIZE, Bytes, Known, Listener, PrefixCache
from genai.engine.sequence import Sequence
from genai.errors import CapacityError
from genai.runtime.adapters import AdapterMemory, ScaledAdapter
from genai.runtime.cache import KVCache

_MAX_IDLE = 32
"""Idle rows: each is looked at for every newcomer."""
_MIN_GAIN = 16
"""Tokens that a snapshot has to spare beyond what is held already: it takes a copy."""
_WORTH_A_CUT = 64
"""The same of one that a prompt's run is cut in two for, where texts are known to part,"""
_WORTH_A_GUESS = 128
"""and where they may: before the last tokens of a prompt."""
_BEHIND_PROMPT = 8
"""Those last tokens, at least: an assistant's turn is begun by so many, which may be others when the next one comes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RowStatus:
    """One row: the tokens that it holds, those that it has room for where it lies, and its states' bytes."""

    valid: int
    capacity: int
    state_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheStatus:
    """The rows in the order in which they lie, how many are idle, and bytes.

    Of valid tokens' keys and values; of those in idle rows, whose room is free; of the whole arena; of prefixes.
    num_snapshots: of states, among the prefixes.
    """

    rows: tuple[RowStatus, ...]
    num_idle: int
    used_bytes: int
    idle_bytes: int
    total_bytes: int
    prefix_bytes: int
    num_snapshots: int = 0


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
        self._owners: dict[int, Sequence] = {}
        remember = weakref.WeakMethod(self._remember_row)  # or the cache would live until the collector comes

        def before_loss(row: int) -> None:
            if (method := remember()) is not None:
                method(row)

        cache.before_loss = before_loss

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
    def state_usage(self) -> tuple[int, int]:
        """Bytes of the rows' states, and how many snapshots the prefix cache holds."""
        return len(self._cache.rows) * self._cache.shape.bytes_per_row, self._prefixes.num_snapshots

    @property
    def status(self) -> CacheStatus:
        """What the cache holds at this moment. Any thread may ask; a row that comes or goes meanwhile is left out."""
        rows, used = [], []
        for group in self._cache.groups:
            for row in group.rows:
                with contextlib.suppress(KeyError):
                    valid, capacity = self._cache.valid(row), self._cache.capacity(row)
                    used.append(self._cache.held_bytes(row))
                    rows.append(RowStatus(valid=valid, capacity=capacity, state_bytes=self._cache.shape.bytes_per_row))
        idle = []
        for row in self._cache.idle:
            with contextlib.suppress(KeyError):
                idle.append(self._cache.held_bytes(row))
        return CacheStatus(
            rows=tuple(rows),
            num_idle=len(idle),
            used_bytes=sum(used),
            idle_bytes=sum(idle),
            total_bytes=self._cache.num_bytes,
            prefix_bytes=self._prefixes.num_bytes,
            num_snapshots=self._prefixes.num_snapshots,
        )

    @property
    def has_states(self) -> bool:
        """Whether rows have states, which are not cut back."""
        return self._cache.has_states

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

    def has_room(self, needs: abc.Sequence[int]) -> bool:
        """Whether rows of these lengths run together nearly as fast as with any memory."""
        return self._cache.has_room(needs)

    def num_worth_running(self, needs: abc.Sequence[int]) -> int:
        """How many rows of these lengths, the first in line first, should run at once; 0: not even the first can."""
        return self._cache.num_worth_running(needs)

    @property
    def remembers(self) -> bool:
        """Whether what one sequence has computed is there for another one."""
        return self._prefixes.max_tokens > 0

    def will_know(self, newcomer: Sequence, running: Sequence) -> bool:
        """Whether a newcomer may begin with what they have in common, once a prompt that is being run is through.

        Its states are put aside there for that, if it has come no further, and this spares the newcomer enough.
        """
        if not self._cache.has_states:
            return True
        if running.num_computed < newcomer.num_known:
            return False
        one, other = self._keys_to_find(newcomer), self._keys(running, len(running.tokens))
        shared = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
        end = shared * BLOCK_SIZE
        ahead = [point for point in running.checkpoints if running.num_computed < point <= end]
        if end > running.num_computed and end - max([newcomer.num_known, *ahead]) >= _WORTH_A_CUT:
            running.checkpoints = tuple(sorted({*running.checkpoints, end}))
            return True
        return bool(ahead)

    def note_known(self, sequence: Sequence) -> None:
        """Have a sequence that is queued tell how many of its tokens need not be run."""
        sequence.num_known = self._find(sequence, self._keys_to_find(sequence)).num_tokens

    def give(self, sequence: Sequence) -> int:
        """A row that holds what is known of a sequence; its last token is run.

        Returns how many tokens that is. Raises: CapacityError.
        """
        keys = self._keys_to_find(sequence)
        known = self._find(sequence, keys)
        idle, num_known = self._find_idle(sequence, keys, known.num_tokens)
        if idle is not None:
            self._cache.revive(idle, num_known, room=sequence.need)
            sequence.row = idle
        elif num_known:
            data, states = self._prefixes.take_known(keys, known, self._cache.firsts(num_known))
            sequence.row = self._cache.import_row(data, num_known, room=sequence.need, states=states)
        else:
            sequence.row = self._cache.allocate(sequence.need)
        self._own(sequence)
        sequence.num_computed, sequence.num_known = num_known, 0
        if self._cache.has_states:
            sequence.checkpoints = self._checkpoints(sequence, keys)
        return num_known

    def _find(self, sequence: Sequence, keys: abc.Sequence[bytes]) -> Known:
        """What the prefix cache has of a sequence; keys: of the blocks that it may have."""
        return self._prefixes.find(keys, sequence.tokens, len(sequence.tokens) - 1)

    def _checkpoints(self, sequence: Sequence, keys: abc.Sequence[bytes]) -> tuple[int, ...]:
        """Where a sequence's prompt is to be cut for a snapshot, in order; others may wait for some already."""
        best = sequence.num_computed
        ends = [point for point in sequence.checkpoints if point > best]
        branch = self._prefixes.lookup(keys) * BLOCK_SIZE
        if branch - best >= _WORTH_A_CUT:
            ends.append(branch)
            best = branch
        before_end = (sequence.num_prompt - _BEHIND_PROMPT) // BLOCK_SIZE * BLOCK_SIZE
        if keys and sequence.may_grow and before_end - best >= _WORTH_A_GUESS:
            ends.append(before_end)
        return tuple(sorted({*ends}))

    def _find_idle(self, sequence: Sequence, keys: abc.Sequence[bytes], known: int) -> tuple[int | None, int]:
        """The idle row that has most of a sequence's first tokens, and how many; None if a copy serves better.

        keys: of the blocks that it may have; known: how many tokens can be copied. A row that holds much else is left
        to who goes on with that; one that cannot be cut back is of no use.
        """
        best, most = None, max(known, 1)
        for row in () if sequence.needs_all else self._cache.idle:
            shared = self._idle[row].shared(sequence.tokens, keys, _adapter_of(sequence))
            shared = min(shared, len(sequence.tokens) - 1)
            held = self._cache.valid(row)
            is_its_own = 2 * shared >= held or shared - known >= BLOCK_SIZE
            if shared >= most and is_its_own and self._cache.can_keep(row, shared):
                best, most = row, shared
        return best, known if best is None else most

    def fork(self, source: Sequence, fork: Sequence) -> None:
        """A row for a sequence that begins as another one. Raises: CapacityError."""
        fork.row = self._cache.fork(row_of(source), source.num_computed, room=fork.need)
        self._own(fork)
        fork.num_computed = source.num_computed

    @contextlib.contextmanager
    def lent(self, num_tokens: int, adapter: ScaledAdapter | None) -> Iterator[int]:
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
            self._disown(row)
            self._cache.free(row)

    def restore(self, sequence: Sequence, data: list[Bytes]) -> None:
        """A row with all of a sequence's keys and values, and states: as `export` gave them. Raises: CapacityError."""
        count = len(self._cache.shape.caches)
        sequence.row = self._cache.import_row(
            data[:count], len(sequence.tokens), room=sequence.need, states=data[count:]
        )
        self._own(sequence)
        sequence.num_computed = len(sequence.tokens)

    def export(self, sequence: Sequence) -> list[Bytes]:
        """A copy of a sequence's keys and values, one array of bytes for each buffer, and of its states."""
        row = row_of(sequence)
        return [*self._cache.export_row(row), *self._cache.export_states(row)]

    def truncate(self, sequence: Sequence) -> None:
        """Forget what a row holds beyond what counts as computed: with states, less may count from now on."""
        row = sequence.row
        if row is None:
            return
        if not self._is_whole(sequence):
            self._go_back(sequence, row)
        self._cache.truncate(row, sequence.num_computed)
        self._cache.drop(row)

    def _is_whole(self, sequence: Sequence) -> bool:
        """Whether a row can go on from what counts as computed: has the states after that, and all that windows see."""
        return self._cache.can_keep(row_of(sequence), sequence.num_computed)

    def _go_back(self, sequence: Sequence, row: int) -> None:
        """Have a row hold the most that is known of what counts as computed, if anything is."""
        kept = self._cache.num_kept(row)
        if kept is not None and kept <= sequence.num_computed:
            sequence.num_computed = self._cache.go_back(row)
            return
        keys = self._keys(sequence, sequence.num_computed)
        known = self._prefixes.find(keys, sequence.tokens, sequence.num_computed)
        self._cache.truncate(row, 0)
        if known.num_tokens:
            data, states = self._prefixes.take_known(keys, known, self._cache.firsts(known.num_tokens))
            self._cache.fill(row, data, known.num_tokens, states=states)
        sequence.num_computed = known.num_tokens

    def recover(self, sequences: abc.Iterable[Sequence]) -> None:
        """Have rows that a run has left without states begin anew, and alone: who was beside them may be to blame."""
        for sequence in sequences if self._cache.lost else ():
            if sequence.row in self._cache.lost:
                sequence.runs_alone, sequence.logits = True, None
                self.truncate(sequence)
        self._cache.lost.clear()

    def put_aside(self, sequence: Sequence) -> None:
        """Remember all that a row holds of a sequence, for who goes on from there."""
        if self._cache.is_damaged:
            return
        if not self._is_whole(sequence):
            self._settle(sequence)
        self.remember(sequence)
        if self._cache.has_states and self._is_whole(sequence):
            self._snapshot(sequence)

    def _settle(self, sequence: Sequence) -> None:
        """A text has ended within a run: states are those of before, if they were kept, or after its very end."""
        row = row_of(sequence)
        if (kept := self._cache.num_kept(row)) is not None and kept <= sequence.num_computed:
            self.truncate(sequence)
        elif self._cache.valid(row) == sequence.num_computed + 1 == len(sequence.tokens):
            sequence.num_computed += 1  # its end was told beside the run of its last token

    def _snapshot(self, sequence: Sequence) -> None:
        """Put a sequence's states into the prefix cache, if that spares more than what is there."""
        count, row = sequence.num_computed, row_of(sequence)
        keys = self._keys(sequence, count)
        known = self._prefixes.find(keys, sequence.tokens, count)
        is_held = self._prefixes.lookup(keys) == len(keys) > 0
        if is_held and count <= self._prefixes.max_tokens and count - known.num_tokens >= _MIN_GAIN:
            start = len(keys) * BLOCK_SIZE
            data = self._cache.export_row(row, start, count)
            self._prefixes.put_snapshot(keys, sequence.tokens[start:count], self._cache.export_states(row), data)

    def remember(self, sequence: Sequence) -> None:
        """Put a sequence's whole blocks into the prefix cache, unless some are neither held there nor in the row."""
        if self._cache.is_damaged:
            return
        keys = self._keys(sequence, min(sequence.num_computed, self._prefixes.max_tokens))
        known = self._prefixes.lookup(keys)
        if known < len(keys) and known * BLOCK_SIZE >= self._cache.base(row_of(sequence)):
            start, end = known * BLOCK_SIZE, len(keys) * BLOCK_SIZE
            data = self._cache.export_row(row_of(sequence), start, end)
            adapter = None if sequence.adapter is None else sequence.adapter.loaded.name
            self._prefixes.put(keys, known, data, sequence.tokens[start:end], adapter)

    def _remember_row(self, row: int) -> None:
        """Remember what a row holds, some of which is about to go."""
        if (sequence := self._owners.get(row)) is not None:
            self.remember(sequence)

    def _keys_to_find(self, sequence: Sequence) -> list[bytes]:
        """The keys of the blocks that need not be run where they are known."""
        if sequence.needs_all:
            return []
        return self._keys(sequence, max(len(sequence.tokens) - 1, 0))

    def _keys(self, sequence: Sequence, num_tokens: int) -> list[bytes]:
        """The keys of the whole blocks among a sequence's first tokens."""
        keys = self._prefixes.keys(sequence.tokens, sequence.block_keys, _adapter_of(sequence))
        return keys[: num_tokens // BLOCK_SIZE]

    def retire(self, sequence: Sequence) -> None:
        """Let go of the row of a sequence that ended well; what it holds stays as long as nobody needs the room."""
        row, keys = row_of(sequence), self._keys(sequence, sequence.num_computed)
        if not keys or self._cache.is_damaged or not self._is_whole(sequence):
            self.release(sequence)
            return
        self._cache.truncate(row, sequence.num_computed)
        self._cache.retire(row)
        self._disown(row)
        tokens = sequence.tokens[: sequence.num_computed]
        self._idle[row] = IdleText(tokens=tokens, keys=keys, adapter=_adapter_of(sequence))
        for old in self._cache.idle[:-_MAX_IDLE]:
            self._cache.forget(old)
        self._idle = {row: self._idle[row] for row in self._cache.idle}
        sequence.row, sequence.num_computed = None, 0

    def release(self, sequence: Sequence) -> None:
        """Free a sequence's row, if it has one."""
        if sequence.row is not None:
            self._disown(sequence.row)
            self._cache.free(sequence.row)
            sequence.row, sequence.num_computed = None, 0

    def _own(self, sequence: Sequence) -> None:
        """Know whose a row is, and have it computed with the sequence's adapter from now on."""
        self._owners[row_of(sequence)] = sequence
        if self._adapters is not None:
            self._adapters.use(row_of(sequence), sequence.adapter)

    def _disown(self, row: int) -> None:
        """Let go of a row that is no sequence's any more."""
        self._owners.pop(row, None)
        if self._adapters is not None:
            self._adapters.use(row, None)


def _adapter_of(sequence: Sequence) -> bytes:
    """What tells a sequence's keys and values from those of the same tokens with another adapter, or none."""
    return b"" if sequence.adapter is None else sequence.adapter.identity


def row_of(sequence: Sequence) -> int:
    """The row of a sequence that runs."""
    assert sequence.row is not None, "a running sequence has a row"
    return sequence.row
