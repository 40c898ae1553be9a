"""Stand-ins for the graph: a runner whose "model" reads the cache, so that a wrong copy gives a wrong text."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from genai import contract
from genai.config import EngineConfig
from genai.contract import AdaptedProduct, AdapterRoom, Cache, State, uniform_caches
from genai.errors import GraphRunError, NotFiniteError
from genai.runtime.adapter_matrices import FittedAdapter
from genai.runtime.adapters import AdapterMemory
from genai.runtime.cache import KVCache
from genai.runtime.cache_shape import CacheShape
from genai.runtime.capacity import CapacityPolicy
from genai.runtime.finite import settle, settle_prompt
from genai.runtime.layout import Group, Place
from genai.runtime.logits import LogitsMemory
from genai.runtime.providers.base import Provider
from genai.runtime.providers.cpu import CpuProvider
from genai.runtime.windows import WindowRoom

VOCAB_SIZE = 97
POISON = 96
"""The token whose values overflow, in models that have one."""
SHAPE = CacheShape(caches=uniform_caches(1, 1), dtype="float32")
BY_LAYER = CacheShape(
    caches=(Cache("key_cache.0", 2), Cache("value_cache.0", 1), Cache("key_cache.5", 3)), dtype="float32"
)
WINDOWED = replace(BY_LAYER, caches=tuple(replace(each, is_windowed=each.layer == 5) for each in BY_LAYER.caches))
WINDOW = WindowRoom(window=5, block=4, longest=16, margin=2, reserved_slots=1)
STATES = (State("conv_state.1", (3, 1), "float32"), State("recurrent_state.1", (2,), "float32"))
ROW_START = [np.arange(1, cache.width + 1, dtype=np.float32).view(np.uint8) for cache in BY_LAYER.caches]
ADAPTER_ROOM = AdapterRoom(groups=((AdaptedProduct("p", 1, 1),),), rank=1, dtype="float32")
ADAPTER_SHIFT = 100
"""So much times its number an adapter adds to what rows hold of a token: no text reads what another has written."""

provider: type[Provider] = CpuProvider
"""Whose memory caches are in; the fixture `each_memory` changes it."""
is_by_layer = False
"""Whether caches have several widths, and rows a reserved slot; the fixture `each_memory` changes it, too."""
has_states = False
"""Whether rows have states; the fixture `each_memory` changes it, too."""
has_windows = False
"""Whether one of several caches keeps what a window sees of a row, alone; the fixture `each_memory` changes it, too."""


def shape() -> CacheShape:
    """Of the caches that are made now."""
    plain = WINDOWED if has_windows else BY_LAYER if is_by_layer else SHAPE
    return replace(plain, states=STATES) if has_states else plain


def num_reserved() -> int:
    """Slots with which the rows of caches that are made now begin."""
    return 1 if is_by_layer else 0


def small_cache(num_slots: int, max_batch: int = 32) -> KVCache:
    start = ROW_START if is_by_layer else ()
    window = WINDOW if has_windows else None
    return KVCache(shape(), num_slots, provider(EngineConfig()), start, max_batch=max_batch, window=window)


def write_tokens(cache: KVCache, row: int, start: int, tokens: Sequence[float]) -> None:
    """What a graph would do: the new tokens' "keys" (the token) and "values" (its negative) behind the valid part."""
    assert start + len(tokens) <= cache.capacity(row), "a write beyond the row's capacity"
    for buffer, each in zip(cache._buffers, cache.shape.caches, strict=True):
        place, base = place_in(cache, row, each), cache.base(row) if each.is_windowed else 0
        first = cache.slots(start) - base
        assert first + len(tokens) <= place.capacity, "a write beyond the room for windows"
        data = np.repeat(np.array(tokens, np.float32) * (1 if each.is_key else -1), each.width)
        buffer.write((place.start + first) * each.width * data.itemsize, data.view(np.uint8))


def place_in(cache: KVCache, row: int, each: Cache) -> Place:
    """Where a row is in one of the caches."""
    return (cache._near.layout if each.is_windowed else cache._layout).place(row)


def read_tokens(cache: KVCache, row: int, end: int | None = None) -> list[int]:
    """The tokens that a row holds (up to `end`), checked to be the same in all buffers, behind what rows begin with.

    Where a window sees the last ones alone, these are what has to be there.
    """
    caches = cache.shape.caches
    held = [data.view(np.float32) for data in cache.export_row(row, 0, end)]
    tokens = held[0][:: caches[0].width]
    for data, each in zip(held, caches, strict=True):
        base = cache.base(row) if each.is_windowed else 0
        assert base <= max(len(tokens) - WINDOW.window + 1, 0), "the next token sees what is gone"
        check_same(data, np.repeat(tokens[base:] * (1 if each.is_key else -1), each.width))
    check_start(cache, row)
    if end is None:
        check_states(cache, row)
    return [int(token) for token in tokens]


def states_of(tokens: Sequence[int]) -> list[np.ndarray]:
    """What a row's states are after these tokens: the last three of them, and a hash of all with their number."""
    last = [token + 1 for token in tokens[-3:]]
    seed = 0
    for token in tokens:
        seed = (seed * 31 + token + 1) % 8388593  # a prime below 2**23: float32 holds it exactly
    pair = [np.array([*[0] * (3 - len(last)), *last], np.float32), np.array([seed, len(tokens)], np.float32)]
    return pair[: len(STATES)]


def change_states(cache: KVCache, row: int, tokens: Sequence[int]) -> None:
    """What a graph would do: go on from the states that there are, whatever they are."""
    last, (seed, count) = (data.view(np.float32) for data in cache.export_states(row))
    for token in tokens:
        last = np.array([*last[1:], token + 1], np.float32)
        seed, count = np.float32((int(seed) * 31 + token + 1) % 8388593), count + 1
    cache._states.write(row, [last.view(np.uint8), np.array([seed, count], np.float32).view(np.uint8)])


def check_states(cache: KVCache, row: int) -> None:
    """Whether a row's states are those after the tokens that it holds."""
    if cache.has_states:
        held = [data.view(np.float32) for data in cache.export_states(row)]
        tokens = read_tokens(cache, row, cache.valid(row))
        for data, expected in zip(held, states_of(tokens), strict=True):
            check_same(data, expected)


def check_start(cache: KVCache, row: int) -> None:
    """Whether a row begins with its reserved slot, where it has one."""
    for buffer, each, start in zip(cache._buffers, cache.shape.caches, cache._row_start, strict=False):
        first = place_in(cache, row, each).start
        check_same(buffer.read(first * start.size, start.size), start)


def check_same(data: np.ndarray, expected: np.ndarray) -> None:
    """Whether two arrays are equal. Nearly all are to the bit, which is seen in a hundredth of the time."""
    if data.dtype != expected.dtype or data.tobytes() != expected.tobytes():
        np.testing.assert_array_equal(data, expected)


def next_logits(tokens: Sequence[int]) -> np.ndarray:
    """Logits [V] that depend on every token and its place."""
    seed = 0
    for token in tokens:
        seed = (seed * 31 + token + 1) % (2**31 - 1)
    return np.random.default_rng(seed).standard_normal(VOCAB_SIZE).astype(np.float32)


def greedy_continuation(prompt: Sequence[int], num_tokens: int) -> list[int]:
    """What the fake model says after a prompt, computed without any cache."""
    tokens = list(prompt)
    for _ in range(num_tokens):
        tokens.append(int(next_logits(tokens).argmax()))
    return tokens[len(prompt) :]


class FakeRunner:
    """Runs the fake model over a real cache. `fails` is asked before each run whether it raises.

    poison: tokens whose "values" overflow: as with Attention, one of them anywhere in a row's capacity breaks the row.
    """

    vocab_size = VOCAB_SIZE

    def __init__(
        self,
        num_slots: int,
        fails: Callable[[int], bool] = lambda run: False,
        poison: Sequence[int] = (),
        max_batch: int = 32,
        num_adapters: int = 0,
    ) -> None:
        self.cache = small_cache(num_slots, max_batch)
        self.adapters = AdapterMemory(ADAPTER_ROOM, num_adapters, provider(EngineConfig())) if num_adapters else None
        self.num_runs = 0
        self.longest_run = 0
        self.fails = fails
        self.poison = frozenset(poison)
        self.group_sizes: list[tuple[int, int]] = []
        self.prefill_sizes: list[int] = []
        self.logits = LogitsMemory()  # as large and as short-lived as the runner's

    def prefill_chunk(self, row: int, tokens: Sequence[int]) -> np.ndarray:
        logits: np.ndarray = self._run_alone(row, tokens, 1, settle_prompt)[0]
        return logits

    def chunk(self, row: int) -> int:
        return min(2048, self.cache.longest_run)

    def score_chunk(self, row: int) -> int:
        return 5

    def prefill(self, row: int, tokens: Sequence[int]) -> np.ndarray:
        for start in range(0, len(tokens), self.chunk(row)):
            logits = self.prefill_chunk(row, tokens[start : start + self.chunk(row)])
        return logits

    def score(self, row: int, tokens: Sequence[int]) -> np.ndarray:
        size = self.chunk(row)
        parts = [tokens[start : start + size] for start in range(0, len(tokens), size)]
        return np.concatenate([self.run_row(row, part, len(part)) for part in parts])

    def run_row(self, row: int, tokens: Sequence[int], num_logits: int) -> np.ndarray:
        return self._run_alone(row, tokens, num_logits, settle)

    def _run_alone(
        self, row: int, tokens: Sequence[int], num_logits: int, last_look: Callable[..., list[bool]]
    ) -> np.ndarray:
        assert tokens, "the graph refuses an empty run"
        self._count(len(tokens))
        self.cache.reserve({row: self.cache.valid(row) + len(tokens)})
        self.cache.make_room([row], len(tokens))
        with self.cache.kept(row):
            for look in (settle, last_look):
                logits = self.logits.take((1, num_logits, VOCAB_SIZE))
                logits[0] = self._logits(row, tokens, len(tokens))[-num_logits:]
                if all(look(self.cache, [row], [len(tokens)], logits)):
                    return logits[0]
        raise NotFiniteError

    def advance(self, group: Group, tokens: Sequence[Sequence[int]]) -> np.ndarray:
        assert group in self.cache.groups, "rows have moved since the group was taken"
        longest = max(map(len, tokens))
        self._count(longest)
        self.group_sizes.append((len(group.rows), group.capacity))
        self.cache.make_room(group.rows, longest)
        logits = self.logits.take((len(tokens), longest, VOCAB_SIZE))
        for index, (row, new) in enumerate(zip(group.rows, tokens, strict=True)):
            logits[index] = self._logits(row, new, longest)
        settle(self.cache, group.rows, [len(new) for new in tokens], logits)
        self.cache.check_integrity()
        return logits

    def most_tokens(self, num_rows: int, capacity: int) -> int:
        return min(2048, self.cache.longest_run)

    def prefill_rows(self, rows: Sequence[int], tokens: Sequence[Sequence[int]]) -> np.ndarray:
        (group,) = [group for group in self.cache.groups if rows[0] in group.rows]
        start = group.rows.index(rows[0])
        assert group.rows[start : start + len(rows)] == tuple(rows), "they are no neighbours"
        longest = max(map(len, tokens))
        self._count(longest)
        self.prefill_sizes.append(len(rows))
        self.cache.make_room(rows, longest)
        logits = self.logits.take((len(rows), 1, VOCAB_SIZE))
        for index, (row, new) in enumerate(zip(rows, tokens, strict=True)):
            logits[index] = self._logits(row, new, longest)[len(new) - 1]
        settle(self.cache, rows, [len(new) for new in tokens], logits)
        self.cache.check_integrity()
        return logits[:, 0]

    def _logits(self, row: int, tokens: Sequence[int], num_positions: int) -> np.ndarray:
        """Write tokens, and padding behind them as the graph does; what follows each position, [num_positions, V]."""
        valid = self.cache.valid(row)
        assert self.cache.base(row) <= max(valid - WINDOW.window + 1, 0), "the first of the tokens sees what is gone"
        check_start(self.cache, row)
        check_states(self.cache, row)
        written = [*tokens, *[0] * (num_positions - len(tokens))]
        shift = ADAPTER_SHIFT * self._adapter(row)
        write_tokens(self.cache, row, valid, [np.inf if token in self.poison else token + shift for token in written])
        if self.cache.has_states:
            change_states(self.cache, row, [token + shift for token in tokens])
            if self.poison & {*written}:  # in padding, too: 0 × infinity
                self.cache._states.write(row, [np.full_like(data, 255) for data in self.cache.export_states(row)])
        logits = np.zeros((num_positions, VOCAB_SIZE), np.float32)
        if not self.cache.is_finite(row, 0, self.cache.capacity(row)):
            logits[:] = np.nan
        elif tokens:
            held = read_tokens(self.cache, row, valid + len(tokens))
            logits[: len(tokens)] = [next_logits(held[:end]) for end in range(valid + 1, len(held) + 1)]
        return logits

    def _adapter(self, row: int) -> int:
        """The number that the graph would read where the row's adapter lies; 0 for a row without one."""
        if self.adapters is None or not (use := self.adapters.use_of([row])).members:
            return 0
        data = self.adapters._buffers[contract.lora_a(["p"])].read(4 * use.first, 4)
        return int(data.view(np.float32)[0])

    def _count(self, num_tokens: int) -> None:
        self.num_runs += 1
        if self.fails(self.num_runs - 1):
            raise GraphRunError("injected failure")
        self.longest_run = max(self.longest_run, num_tokens)


def fitted_adapter(memory: AdapterMemory, number: int) -> FittedAdapter:
    """The fake model's adapter of a number, from 1, which is its identity, too."""
    matrix = np.full((1, 1), number, np.float32)
    return memory.fitted(str(number), bytes([number]), {"p": (matrix, matrix)})


class ExactCapacities(CapacityPolicy):
    """A policy without rounding and without groups: every row grows with every token."""

    def capacity(self, num_tokens: int) -> int:
        return num_tokens

    def groups(self, needs: Mapping[int, int], current: Sequence[Group], num_slots: int) -> list[Group] | None:
        groups = [Group(capacity=need, rows=(row,)) for row, need in needs.items()]
        return groups if sum(needs.values()) <= num_slots else None


class OneGroup(CapacityPolicy):
    """A policy that runs all rows together, in the other order, whenever the longest one's capacity leaves room."""

    def groups(self, needs: Mapping[int, int], current: Sequence[Group], num_slots: int) -> list[Group] | None:
        capacity = self.capacity(max(needs.values(), default=1))
        if capacity * len(needs) <= num_slots:
            return [Group(capacity=capacity, rows=tuple(sorted(needs, reverse=True)))]
        return CapacityPolicy.groups(self, needs, current, num_slots)

    def runs_apart(self, num_rows: int, drafts: Sequence[int]) -> bool:
        return False
