"""Adapters' matrices in the device's memory, and which rows use which: loaded and unloaded while others run.

    place     0         1         2         3
            ├─────────┼─────────┼─────────┼─────────┤      one such buffer for each of the graph's inputs
            │ french  │ legal   │    ·    │ poems   │
              └─────────────────┘ what a run binds, if its rows use both: a pointer and a count

A run is bound from the first to the last place that its rows use, and computes those between, too. So what comes into
use is brought forward, into the place of one that is not in use, and those in use are neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from genai import contract
from genai.contract import AdapterRoom, TensorType
from genai.errors import AdapterError
from genai.runtime.adapter_matrices import FittedAdapter, Matrices, fit
from genai.runtime.floats import ITEM_SIZE
from genai.runtime.ort import Binding
from genai.runtime.providers.base import Buffer, Provider

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]


@dataclass(slots=True, kw_only=True, eq=False)
class LoadedAdapter:
    """An adapter in memory.

    identity: what tells it from others; place: where it lies, None once that is somebody else's; is_leaving: nothing
    new may use it, and its place is free when nobody does any more.
    """

    name: str
    identity: bytes
    place: int | None
    is_leaving: bool = False


@dataclass(frozen=True, slots=True)
class ScaledAdapter:
    """An adapter as a text has it: what it adds is multiplied by a scale, which float32 holds."""

    loaded: LoadedAdapter
    scale: float = 1.0

    @property
    def identity(self) -> bytes:
        """What tells it from others, and from itself with another scale."""
        return self.loaded.identity + (b"" if self.scale == 1 else np.float32(self.scale).tobytes())


@dataclass(frozen=True, slots=True)
class AdapterUse:
    """Which of a run's rows use which adapters: by place, from the first one on; none if nobody uses any.

    scales: what each of these rows has what is added multiplied by.
    """

    first: int = 0
    members: tuple[tuple[int, ...], ...] = ()
    scales: Mapping[int, float] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """How many places there are, and how many rows use the one that most do."""
        return len(self.members), max(map(len, self.members), default=0)

    def fill(self, rows: IntArray, places: IntArray, scales: FloatArray) -> None:
        """Tell the graph: rows of `shape`, places [B, 2] and scales [B, 1, 1], as the contract has them."""
        rows[:], places[:], scales[:] = 0, 0, 0
        for place, members in enumerate(self.members):
            rows[place, : len(members)] = members
            for index, row in enumerate(members):
                places[row], scales[row] = (place, index), self.scales[row]


NOBODY = AdapterUse()
NO_ROOM = (
    "this package has no room for adapters: build it from its weights with --lora-slots; packages that were converted, "
    "or built by others, take none"
)


class AdapterMemory:
    """Memory for so many adapters, allocated once. Everything but `fitted` is for the thread that runs the graph."""

    def __init__(self, room: AdapterRoom, num_places: int, provider: Provider) -> None:
        self.room = room
        self._stacks = contract.adapter_stacks(room)
        self._buffers: dict[str, Buffer] = {
            stack.name: provider.allocate(num_places * _item_bytes(stack)) for stack in self._stacks
        }
        self._places: list[LoadedAdapter | None] = [None] * num_places
        self._of_row: dict[int, ScaledAdapter] = {}

    @staticmethod
    def num_bytes(room: AdapterRoom, num_places: int) -> int:
        """What so many adapters take."""
        return num_places * sum(map(_item_bytes, contract.adapter_stacks(room)))

    @property
    def loaded(self) -> tuple[LoadedAdapter, ...]:
        """What is in memory."""
        return tuple(each for each in self._places if each is not None)

    @property
    def num_places(self) -> int:
        """How many adapters there is room for."""
        return len(self._places)

    def fitted(self, name: str, identity: bytes, matrices: Matrices) -> FittedAdapter:
        """An adapter as it will lie in memory; any thread may. Raises: AdapterError if it is not for this graph."""
        return fit(self.room, name, identity, matrices)

    def load(self, fitted: FittedAdapter, in_use: Container[LoadedAdapter | None]) -> LoadedAdapter:
        """Write an adapter into a place that is free; in_use: by texts that have not ended. Raises: AdapterError."""
        for each in self.loaded:
            if each.is_leaving and each not in in_use and each.place is not None:
                self._places[each.place] = None
                each.place = None
        place = next((place for place, held in enumerate(self._places) if held is None), None)
        if place is None:
            names = ", ".join(f"{each.name}{' until its texts end' if each.is_leaving else ''}" for each in self.loaded)
            raise AdapterError(
                f"adapter {fitted.name!r} finds no room: {self.num_places} are loaded ({names}), the most that this "
                "package was built for (--lora-slots); unload one first"
            )
        for name, content in fitted.data.items():
            self._buffers[name].write(place * content.size, content)
        adapter = self._places[place] = LoadedAdapter(name=fitted.name, identity=fitted.identity, place=place)
        return adapter

    def use(self, row: int, adapter: ScaledAdapter | None) -> None:
        """Have a row use an adapter from now on, or none."""
        if adapter is None:
            self._of_row.pop(row, None)
            return
        if all(other.loaded is not adapter.loaded for other in self._of_row.values()):
            self._bring_forward(adapter.loaded)
        self._of_row[row] = adapter

    def use_of(self, rows: Sequence[int]) -> AdapterUse:
        """Which of these rows, the batch of a run, use which adapters."""
        if not self._of_row:
            return NOBODY
        by_place: dict[int, list[int]] = {}
        scales: dict[int, float] = {}
        for index, row in enumerate(rows):
            adapter = self._of_row.get(row)
            if adapter is not None and adapter.loaded.place is not None:
                by_place.setdefault(adapter.loaded.place, []).append(index)
                scales[index] = adapter.scale
        if not by_place:
            return NOBODY
        first, last = min(by_place), max(by_place)
        return AdapterUse(first, tuple(tuple(by_place.get(place, ())) for place in range(first, last + 1)), scales)

    def bind(self, binding: Binding, use: AdapterUse) -> None:
        """Bind the places that a run uses; where nobody uses any the graph has defaults."""
        if not use.members:
            return
        for stack in self._stacks:
            pointer = self._buffers[stack.name].pointer + use.first * _item_bytes(stack)
            binding.bind_input(stack.name, stack.dtype, (use.shape[0], *_sizes(stack)), pointer)

    def _bring_forward(self, adapter: LoadedAdapter) -> None:
        """Move an adapter that comes into use to the first place of none in use; what lies there gets its own."""
        taken = {each.loaded.place for each in self._of_row.values()}
        here = adapter.place
        target = next(place for place in range(self.num_places) if place not in taken)
        if here is None or target >= here:
            return
        other = self._places[target]
        for stack in self._stacks:
            buffer, size = self._buffers[stack.name], _item_bytes(stack)
            aside = None if other is None else buffer.read(target * size, size)
            buffer.copy(target * size, here * size, size)
            if aside is not None:
                buffer.write(here * size, aside)
        self._places[target], self._places[here] = adapter, other
        adapter.place = target
        if other is not None:
            other.place = here


def _sizes(stack: TensorType) -> tuple[int, ...]:
    """One adapter's shape in a stack."""
    return tuple(size for size in stack.shape[1:] if isinstance(size, int))


def _item_bytes(stack: TensorType) -> int:
    """One adapter's bytes in a stack."""
    return math.prod(_sizes(stack)) * (1 if stack.dtype == contract.ADAPTER_BYTES else ITEM_SIZE[stack.dtype])
