"""A model's adapters by name: loaded and unloaded while texts run, each text with one of them or none."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np

from genai import models
from genai.config import MAX_ADAPTER_SCALE, ModelConfig
from genai.engine.loop import EngineLoop
from genai.errors import AdapterError, ConfigError
from genai.runtime.adapter_matrices import FittedAdapter
from genai.runtime.adapters import NO_ROOM, AdapterMemory, LoadedAdapter, ScaledAdapter

_LONGEST_NAME = 300
AdapterChoice: TypeAlias = str | tuple[str, float]
"""An adapter by its name, or by name and scale: what it adds is multiplied by that."""


class Adapters:
    """What is loaded, by name. Any thread may load, unload and ask."""

    def __init__(self, model: ModelConfig, memory: AdapterMemory | None, loop: EngineLoop) -> None:
        self._model = model
        self._memory = memory
        self._loop = loop
        self._lock = threading.Lock()
        self._loaded: dict[str, tuple[LoadedAdapter, str]] = {}
        self._loading: set[str] = set()

    @property
    def num_places(self) -> int:
        """How many there is room for; 0 for a package without room."""
        return 0 if self._memory is None else self._memory.num_places

    @property
    def paths(self) -> Mapping[str, str]:
        """Those that are loaded, in the order in which they were: names, and where each was read."""
        return {name: path for name, (_, path) in tuple(self._loaded.items())}

    def get(self, choice: AdapterChoice | None) -> ScaledAdapter | None:
        """What a text is to have; None for no choice, and for a scale of 0, which is the base.

        Raises: ConfigError for one that is not loaded, or a scale that is no number.
        """
        if choice is None:
            return None
        name, scale = (choice, 1.0) if isinstance(choice, str) else _checked(choice)
        found = self._find(name)
        return ScaledAdapter(found, scale) if scale else None

    def _find(self, name: str) -> LoadedAdapter:
        found = self._loaded.get(name)
        if found is None:
            if self._memory is None:
                raise ConfigError(f"adapter={name!r}: {NO_ROOM}")
            known = ", ".join(map(repr, self._loaded)) or "none"
            raise ConfigError(f"adapter={name!r}: no such adapter is loaded; loaded: {known}")
        return found[0]

    def load(self, name: str, path: str | Path) -> None:
        """Read an adapter and put it in memory; texts that run wait no longer than that is copied.

        Raises: AdapterError for what is no adapter of this model, or finds no room; ConfigError for a name that is
        taken.
        """
        if not (isinstance(name, str) and 0 < len(name) <= _LONGEST_NAME):
            raise ConfigError(f"an adapter's name is a text of 1 to {_LONGEST_NAME} characters, not {name!r}")
        with self._lock:
            if name in self._loaded or name in self._loading:
                raise ConfigError(f"adapter {name!r} is loaded already; unload it first, or give another name")
            self._loading.add(name)
        try:
            fitted = self.fitted(name, path)
            loaded = self._loop.call(lambda engine: engine.load_adapter(fitted))
            self._loaded[name] = loaded, str(path)
        finally:
            self._loading.discard(name)

    def fitted(self, name: str, path: str | Path) -> FittedAdapter:
        """An adapter as it will lie in memory, not loaded yet. Raises: AdapterError for what is none of this model."""
        if self._memory is None:
            raise AdapterError(NO_ROOM)
        adapter = models.read_adapter(path, self._model)
        matrices = {product: (each.first, each.second) for product, each in adapter.products.items()}
        return self._memory.fitted(name, adapter.digest(), matrices)

    def unload(self, name: str) -> None:
        """Take no new texts with an adapter; its place is free once those that have it have ended.

        Raises: ConfigError if it is not loaded.
        """
        with self._lock:
            self._find(name).is_leaving = True
            del self._loaded[name]


def _checked(choice: object) -> tuple[str, float]:
    """(name, scale) of a choice that is no name alone. Raises: ConfigError."""
    match choice:
        case (str() as name, int() | float() as scale) if abs(scale) <= MAX_ADAPTER_SCALE:
            return name, float(np.float32(scale))  # as the graph reads it
    raise ConfigError(
        f"adapter={choice!r}: must be the name of one that is loaded, or (name, scale), the scale from "
        f"-{MAX_ADAPTER_SCALE} to {MAX_ADAPTER_SCALE}"
    )
