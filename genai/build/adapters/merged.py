"""A checkpoint with an adapter merged into its weights: the base's tensors, and where the adapter changes them, those.

What is changed has no blocks of the checkpoint's own any more; it is rounded anew, from floats, as the precision asks.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from genai.build.adapters.adapter import Adapter
from genai.build.source import JSON, BlockWeight, FloatArray, WeightSource
from genai.errors import AdapterError


class MergedSource:
    """A source with an adapter in it. Raises: AdapterError for modules that it does not have, or of other sizes."""

    def __init__(self, source: WeightSource, adapter: Adapter) -> None:
        self._source = source
        self._changes = {f"{name}.weight": each for name, each in adapter.products.items()}
        present = frozenset(source.names())
        for name, each in self._changes.items():
            if name not in present:
                raise AdapterError(
                    f"{adapter.source} changes {name.removesuffix('.weight')}, which the base does not have: it "
                    "belongs to another model"
                )
            wanted = (each.second.shape[1], each.first.shape[0])
            if source.shape(name) != wanted:
                raise AdapterError(
                    f"{adapter.source} changes {name.removesuffix('.weight')} of {list(wanted)}, which is "
                    f"{list(source.shape(name))} in the base: it belongs to another model"
                )

    @property
    def config(self) -> Mapping[str, JSON]:
        """The checkpoint's configuration."""
        return self._source.config

    def names(self) -> Collection[str]:
        """Every tensor's name."""
        return self._source.names()

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape. Raises: WeightsError."""
        return self._source.shape(name)

    def read(self, name: str, rows: slice | None = None) -> FloatArray:
        """A tensor, or these rows of it, as float32, changed where the adapter changes it. Raises: WeightsError."""
        weight, change = self._source.read(name, rows), self._changes.get(name)
        return weight if change is None else weight + change.change(rows)

    def read_blocks(self, name: str, rows: slice | None = None) -> BlockWeight | None:
        """The checkpoint's own blocks of what is not changed, None where it has none."""
        return None if name in self._changes else self._source.read_blocks(name, rows)
