"""Which applications there are and which models each of them has, as the doors in front of them know it.

Each replica writes its application's entry down when it begins; doors read all of them now and then.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase

from server.cluster.placement import hashed
from server.settings import Settings

_log = logging.getLogger(__name__)

_FRESH_SECONDS = 5.0
"""How old what is known may be."""
_EMPTY_SECONDS = 0.5
"""The same while nothing is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One application.

    route: what its paths begin with, "/" for none; models: its models, with their other names and their adapters'.
    """

    app: str
    route: str
    models: Mapping[str, Sequence[str]] = field(default_factory=dict)
    fallback: str | None = None

    @classmethod
    def of(cls, app: str, route: str, settings: Settings) -> Entry:
        """An application that has all models of its settings."""
        models = {name: [*model.aliases, *model.adapters] for name, model in settings.models.items()}
        return cls(app=app, route=route, models=models, fallback=settings.fallback_model)

    def to_json(self) -> bytes:
        """As it is written down."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def from_json(cls, text: bytes) -> Entry:
        """As it was written down."""
        return cls(**json.loads(text))

    @property
    def mark(self) -> str:
        """Four letters that tell it from others, for the names of what only its replicas have."""
        return f"{hashed(self.route) & 0xFFFF:04x}"


def route_of(model: str, number: int) -> str:
    """Where a model's application is: the first one at the root, others under their names."""
    return "/" if number == 0 else f"/~{model.replace('/', '~')}"


def with_model(entries: Sequence[Entry], name: str | None) -> Entry | None:
    """The application that has a model, by the rules of `ModelPool`; the one at the root for what nobody has."""
    root = next((entry for entry in entries if entry.route == "/"), None)
    if name is None:
        return root
    for spelled in (name, name.removesuffix(":latest")):
        for entry in entries:
            if spelled in entry.models:
                return entry
    for matches in (str.__eq__, fnmatchcase):
        for entry in entries:
            if any(matches(name, alias) for aliases in entry.models.values() for alias in aliases):
                return entry
    fallback = next((entry for entry in entries if entry.fallback is not None and entry.fallback in entry.models), None)
    return fallback or root


class Directory:
    """The entries, read anew when they are old. read: reads all of them, in a thread."""

    def __init__(self, read: Callable[[], Sequence[Entry]], clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._known: Sequence[Entry] = ()
        self._read_at = float("-inf")
        self._reading: asyncio.Task[None] | None = None

    async def entries(self) -> Sequence[Entry]:
        """What is known; who comes while nothing is, waits."""
        if self._clock() - self._read_at >= _FRESH_SECONDS and self._reading is None:
            self._reading = asyncio.create_task(self._update())
        if not self._known and self._reading is not None:
            await asyncio.shield(self._reading)
        return self._known

    async def _update(self) -> None:
        try:
            self._known = await asyncio.to_thread(self._read)
        except Exception as error:  # Ray has no kind of its own for a store that does not answer
            _log.warning("it cannot be read which applications there are: %s", error)
        finally:
            self._read_at = self._clock() - (0.0 if self._known else _FRESH_SECONDS - _EMPTY_SECONDS)
            self._reading = None
