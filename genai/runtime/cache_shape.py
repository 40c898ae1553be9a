"""What a model's cache is made of, and how the graph sees some of its rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from genai.contract import Cache, State
from genai.runtime.floats import ITEM_SIZE, is_finite
from genai.runtime.providers.base import Bytes
from genai.runtime.states import sizes_of


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheShape:
    """What a model's cache is made of: a buffer for each of the graph's caches and states, in their order."""

    caches: tuple[Cache, ...]
    dtype: str
    states: tuple[State, ...] = ()

    @property
    def slot_bytes(self) -> tuple[int, ...]:
        """Bytes that one token takes in each buffer."""
        return tuple(cache.width * ITEM_SIZE[self.dtype] for cache in self.caches)

    @property
    def bytes_per_token(self) -> int:
        """Bytes that one token takes in all buffers."""
        return sum(self.slot_bytes)

    @property
    def window_bytes_per_token(self) -> int:
        """Those of them that are in caches of a row's last tokens."""
        pairs = zip(self.caches, self.slot_bytes, strict=True)
        return sum(size for cache, size in pairs if cache.is_windowed)

    def num_bytes(self, num_slots: int, num_window_slots: int) -> int:
        """Bytes of so many slots, and of so many in caches of a row's last tokens."""
        of_windows = self.window_bytes_per_token
        return num_slots * (self.bytes_per_token - of_windows) + num_window_slots * of_windows

    @property
    def state_bytes(self) -> tuple[int, ...]:
        """Bytes that each of a row's states takes, however many tokens it holds."""
        return sizes_of(self.states)

    @property
    def bytes_per_row(self) -> int:
        """Bytes that a row's states take."""
        return sum(self.state_bytes)

    def is_finite(self, data: Iterable[Bytes]) -> bool:
        """Whether raw keys and values are finite numbers, all of them."""
        return all(is_finite(each, self.dtype) for each in data)

    def is_finite_row(self, data: Sequence[Bytes]) -> bool:
        """The same of raw keys and values of a row, with its states behind them."""
        count = len(self.caches)
        pairs = zip(data[count:], self.states, strict=True)
        return self.is_finite(data[:count]) and all(is_finite(each, state.dtype) for each, state in pairs)


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """Neighbouring rows as one tensor: [num_rows, capacity, width] from slot `start`; capacity in slots.

    first_state: where the first row's states lie, those of the others behind it; window_start, window_capacity: the
    same of what is kept for windows, 0 where nothing is.
    """

    start: int
    num_rows: int
    capacity: int
    first_state: int
    window_start: int
    window_capacity: int
