"""A family's checkpoint under the names and in the layout that every family has here: Llama's.

    transformer.h.0.attn.c_attn.weight  [in, out]   ─►   model.layers.0.self_attn.qkv_proj.weight  [out, in]

A family whose checkpoints differ says how in a `StoredForm` beside its `decoder_spec`; GGUF files are read into the
same names by tables of their own (`gguf/`).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from genai.build.source import JSON, BlockWeight, FloatArray, WeightSource
from genai.errors import WeightsError

_log = logging.getLogger(__name__)

Rows = npt.NDArray[np.int64]
Factors = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredForm:
    """How a family's checkpoints call and lay out their tensors.

    outside: beginnings of names, {"transformer.h": "model.layers"}; inside: modules within a layer, or their
    beginnings, {"attn.c_attn": "self_attn.qkv_proj"}, where `*` is any number, or, on our side alone, each index of
    what is stacked along the first axis, {"moe.input": "mlp.experts.*.gate_up_proj"}; ignored: beginnings of names, and
    names within a layer, that are left out because the text does not depend on them; predicting: beginnings of names of
    layers behind the last one, which predict further tokens: left out, too, and that is said; transposed: modules of
    ours, within a layer, that are stored as [in, out]; rows: the order in which a module's stored rows become ours (q,
    k and v one after the other, for example); factors: what its rows are multiplied by, all alike or each; for weight
    and bias alike. A module's numbers are `*` in these.
    """

    outside: Mapping[str, str] = field(default_factory=dict)
    inside: Mapping[str, str] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()
    predicting: frozenset[str] = frozenset()
    transposed: frozenset[str] = frozenset()
    rows: Mapping[str, Rows] = field(default_factory=dict)
    factors: Mapping[str, float | Factors] = field(default_factory=dict)

    def our_name(self, stored: str) -> str | None:
        """Our name of a stored tensor, None for one that is left out; with a `*` of one that is a stack."""
        if _beginning(stored, self.ignored) is not None:
            return None
        if (prefix := _beginning(stored, self.outside)) is not None:
            stored = self.outside[prefix] + stored[len(prefix) :]
        match = _IN_LAYER.fullmatch(stored)
        if match is None:
            return stored
        layer, module = match.groups()
        numbers = iter(_NUMBER.findall(module))
        pattern = _NUMBER.sub("*", module)
        if _beginning(pattern, self.ignored) is not None:
            return None
        if (prefix := _beginning(pattern, self.inside)) is not None:
            pattern = self.inside[prefix] + pattern[len(prefix) :]
        return layer + re.sub(r"\*", lambda star: next(numbers, star[0]), pattern)

    def rows_of(self, name: str) -> Rows | None:
        """The order in which the stored rows of a tensor of ours become ours, None where they lie so already."""
        return self.rows.get(_module(name))

    def is_multiplied(self, name: str) -> bool:
        """Whether rows of a tensor of ours have factors."""
        return _module(name) in self.factors

    def multiplied(self, name: str, array: FloatArray) -> FloatArray:
        """Rows of a tensor of ours with their factors."""
        factors = self.factors.get(_module(name))
        return array if factors is None else (array.T * np.asarray(factors, np.float32)).T


_IN_LAYER = re.compile(r"(model\.layers\.[0-9]+\.)(.+)")
_NUMBER = re.compile(r"(?<=\.)[0-9]+(?=\.)")


class StackSource(WeightSource, Protocol):
    """A checkpoint of which a part of a tensor can be read without the rest."""

    def read_item(self, name: str, index: int) -> FloatArray:
        """One item along a tensor's first axis, as float32. Raises: WeightsError."""
        ...

    def read_item_blocks(self, name: str, index: int) -> BlockWeight | None:
        """One item as the checkpoint's own integer blocks, exact; None of a tensor that has none."""
        ...


@dataclass(frozen=True, slots=True)
class _Place:
    """A stored tensor, or one item along its first axis."""

    tensor: str
    item: int | None = None


def grouped_rows(num_groups: int, queries: int, head_dim: int) -> Rows:
    """The order of a matrix that is stored group by group: its queries' rows, its key's, its value's.

    q q k v  q' q' k' v'   ─►   q q q' q'  k k'  v v'
    """
    rows = np.arange(num_groups * (queries + 2) * head_dim, dtype=np.int64).reshape(num_groups, queries + 2, head_dim)
    return np.concatenate([rows[:, part].reshape(-1) for part in (slice(queries), queries, queries + 1)])


class StoredSource:
    """A checkpoint in its stored form, read in ours. Raises: WeightsError if two of its tensors get the same name."""

    def __init__(self, source: StackSource, form: StoredForm) -> None:
        self._source = source
        self._form = form
        self._places: dict[str, _Place] = {}
        left_out, predicting = 0, 0
        for stored in source.names():
            if _beginning(stored, form.predicting) is not None:
                predicting += 1
                continue
            name = form.our_name(stored)
            if name is None:
                left_out += 1
            elif "*" in name:
                for index in range(source.shape(stored)[0]):
                    self._put(name.replace("*", str(index)), _Place(stored, index))
            else:
                self._put(name, _Place(stored))
        if left_out:
            _log.info("%d tensors of the checkpoint are not part of the text's model, and left out", left_out)
        if predicting:
            _log.warning(
                "left out: layers that predict further tokens (%d tensors); texts are the same without", predicting
            )

    @property
    def config(self) -> Mapping[str, JSON]:
        """The checkpoint's configuration."""
        return self._source.config

    def names(self) -> Collection[str]:
        """Our names of its tensors."""
        return self._places.keys()

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape in our layout. Raises: WeightsError."""
        place = self._place(name)
        shape = self._source.shape(place.tensor)[0 if place.item is None else 1 :]
        return shape[::-1] if self._is_transposed(name) else shape

    def read(self, name: str, rows: slice | None = None) -> FloatArray:
        """A tensor, or these rows of it, as float32 in our layout. Raises: WeightsError."""
        place = self._place(name)
        if rows is not None and self._is_as_stored(name, place):
            return self._source.read(place.tensor, rows)
        array = (
            self._source.read(place.tensor) if place.item is None else self._source.read_item(place.tensor, place.item)
        )
        array = array.T if self._is_transposed(name) else array
        order = self._order(name, array.shape)
        array = self._form.multiplied(name, array if order is None else array[order])
        return array if rows is None else array[rows]

    def read_blocks(self, name: str, rows: slice | None = None) -> BlockWeight | None:
        """The own integer blocks of a tensor, or of these rows, in our layout, None where it has none."""
        place = self._place(name)
        if self._is_transposed(name) or self._form.is_multiplied(name):
            return None
        if rows is not None and self._is_as_stored(name, place):
            return self._source.read_blocks(place.tensor, rows)
        tensor, item = place.tensor, place.item
        blocks = self._source.read_blocks(tensor) if item is None else self._source.read_item_blocks(tensor, item)
        if blocks is not None and (order := self._order(name, blocks.values.shape)) is not None:
            blocks = blocks.take_rows(order)
        return blocks if blocks is None or rows is None else blocks.take_rows(rows)

    def _is_as_stored(self, name: str, place: _Place) -> bool:
        is_moved = self._is_transposed(name) or self._form.rows_of(name) is not None
        return place.item is None and not is_moved and not self._form.is_multiplied(name)

    def _put(self, name: str, place: _Place) -> None:
        if name in self._places:
            other = self._places[name].tensor
            raise WeightsError(f"the checkpoint has both {place.tensor!r} and {other!r}: the same weight")
        self._places[name] = place

    def _place(self, name: str) -> _Place:
        if name not in self._places:
            raise WeightsError(f"the checkpoint has no tensor {name!r}")
        return self._places[name]

    def _is_transposed(self, name: str) -> bool:
        return name.endswith(".weight") and _module(name) in self._form.transposed

    def _order(self, name: str, shape: tuple[int, ...]) -> Rows | None:
        rows = self._form.rows_of(name)
        if rows is not None and shape[:1] != rows.shape:
            count = shape[0] if shape else 1
            raise WeightsError(
                f"tensor {self._places[name].tensor!r} has {count} rows, its configuration says {len(rows)}"
            )
        return rows


def _module(name: str) -> str:
    """A tensor's module within its layer, numbers as `*`: `mlp.experts.*.gate_up_proj`."""
    match = _IN_LAYER.fullmatch(name)
    return _NUMBER.sub("*", match[2]).rpartition(".")[0] if match else ""


def _beginning(name: str, beginnings: Collection[str]) -> str | None:
    """The longest of these that the name is or begins with, at a dot."""
    found = [each for each in beginnings if name == each or name.startswith(f"{each}.")]
    return max(found, key=len, default=None)
