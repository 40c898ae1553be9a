"""Adapters: finding them, what rank they have, and reading them for a package's base."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from genai.config import MAX_RANK, ModelConfig
from genai.errors import AdapterError

if TYPE_CHECKING:
    from genai.build.adapters.adapter import Adapter
    from genai.build.source import JSON

_FEWEST = 4
"""Adapters that a package built on demand has room for at least, so that it need not be built anew for each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What a package is to have room for: so many adapters, none above this rank."""

    lora_slots: int
    max_rank: int


def read_adapter(path: str | Path, model: ModelConfig) -> Adapter:
    """An adapter for a package: a PEFT folder or a GGUF file. Raises: AdapterError."""
    from genai.runtime.adapters import NO_ROOM

    if model.adapters is None:
        raise AdapterError(NO_ROOM)
    from genai.build.adapters.base import Base
    from genai.build.adapters.open import read_adapter

    with _readable(path) as place:
        return read_adapter(place, Base(cast("Mapping[str, JSON]", model.adapters.base)))


def room_for(paths: Iterable[str | Path], lora_slots: int | None, max_rank: int | None) -> Room | None:
    """Room for these adapters and a few more: a power of two each, unless it is said; None if none is asked for.

    Raises: AdapterError.
    """
    paths = [*paths]
    if not paths and (lora_slots == 0 or (lora_slots is None and max_rank is None)):
        return None
    from genai.build.adapters.open import adapter_rank

    ranks = []
    for path in paths:
        with _readable(path) as place:
            ranks.append(adapter_rank(place))
    return Room(
        lora_slots=_power_of_two(max(len(ranks), _FEWEST)) if lora_slots is None else lora_slots,
        max_rank=_power_of_two(max([*ranks, MAX_RANK])) if max_rank is None else max_rank,
    )


@contextmanager
def _readable(path: str | Path) -> Iterator[Path]:
    """An adapter's path with its `~` told, while it is read. Raises: AdapterError for what the system refuses."""
    try:
        place = Path(path).expanduser()
    except RuntimeError as error:
        raise AdapterError(f"{path}: {error}; write the folder out") from None
    try:
        yield place
    except OSError as error:
        raise AdapterError(f"{path} cannot be read: {error.strerror}") from error


def _power_of_two(least: int) -> int:
    return 1 << (least - 1).bit_length()
