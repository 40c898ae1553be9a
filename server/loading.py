"""Making one model ready, in a thread of its own: fetched, built, given room, loaded, warmed up.

Whoever serves the models decides when; here is how, and how it is broken off when the server ends.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from genai.errors import GenAIError
from genai.progress import Progress
from server.settings import ModelSettings, Settings

if TYPE_CHECKING:
    from genai.llm.async_llm import AsyncLLM

_log = logging.getLogger(__name__)

Room: TypeAlias = Callable[[int], None]
"""Asks for so many bytes, and waits until others have made room. Raises: CapacityError if that can never be."""
Loader: TypeAlias = "Callable[[str, ModelSettings, Settings, Progress, Room], AsyncLLM]"


class LeavingError(Exception):
    """Loading is broken off because the server ends."""


def load_model(name: str, model: ModelSettings, settings: Settings, progress: Progress, room: Room) -> AsyncLLM:
    """Fetch, build and load what is missing. Raises: GenAIError's kinds."""
    from genai import models
    from genai.llm.async_llm import AsyncLLM
    from genai.llm.llm import LLM
    from genai.models.store import tree_bytes

    config = settings.engine_config(model)
    precision = model.precision or settings.precision
    wanted = models.room_for(model.adapters.values(), model.lora_slots, model.max_rank)
    path = models.package(model.source, precision=precision, device=config.device, room=wanted, progress=progress)
    room(tree_bytes(path) + (config.kv_cache_bytes or 0) + (config.prefix_cache_bytes or 0))
    llm = LLM(path, config, name=name)
    llm.warm_up()  # what the first constraint needs: later, all streams would wait for it
    for adapter, place in model.adapters.items():
        llm.load_adapter(adapter, place)
    return AsyncLLM(llm)


def failure(error: Exception, name: str) -> str:
    """What is told of a failed loading; what nobody foresaw is in the log."""
    if isinstance(error, LeavingError):
        return "the server is ending"
    if isinstance(error, GenAIError):
        _log.error("%s cannot be served: %s", name, error)
        return str(error)
    _log.error("%s cannot be served", name, exc_info=error)
    return f"unexpected {type(error).__name__}"


def logged_progress(name: str, is_closing: Callable[[], bool]) -> Progress:
    """Progress as lines in the log: what begins, and every tenth of it. It raises LeavingError once the server ends."""
    told: dict[str, int] = {}

    def report(label: str, done: int, total: int) -> None:
        if is_closing():
            raise LeavingError
        tenths = 10 * done // total if total else 0
        if told.get(label) != tenths:
            told[label] = tenths
            _log.info("%s: %s%s", name, label, f", {10 * tenths} %" if total else "")

    return report


T = TypeVar("T")


class LoaderThread:
    """Runs what takes long in a thread that does not keep the process alive, one thing at a time."""

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None

    async def run(self, work: Callable[[], T]) -> T:
        """The outcome of work. Raises: what it raises."""
        loop = asyncio.get_running_loop()
        outcome: asyncio.Future[T] = loop.create_future()

        def tell(result: T | None, error: Exception | None) -> None:
            if outcome.done():
                return
            if error is None:
                outcome.set_result(result)  # type: ignore[arg-type]
            else:
                outcome.set_exception(error)

        def call() -> None:
            result: T | None = None
            failed: Exception | None = None
            try:
                result = work()
            except Exception as error:
                failed = error
            try:
                loop.call_soon_threadsafe(tell, result, failed)
            except RuntimeError:  # the event loop is closed: the server has ended meanwhile
                return

        self._thread = threading.Thread(target=call, name="model-loader", daemon=True)
        self._thread.start()
        return await outcome

    def join(self, seconds: float) -> None:
        """Wait for what runs."""
        if self._thread is not None:
            self._thread.join(seconds)
