"""The models that are served, by name: loaded one after another in a thread, ready or failed each for itself.

    loading ──► ready
       └──────► failed

One after another, because each takes its share of the memory that is free when its turn comes.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeAlias

from genai.errors import GenAIError
from genai.progress import Progress
from server.context import request_info
from server.errors import ApiError
from server.metrics import TokenMeter
from server.settings import ModelSettings, Settings

if TYPE_CHECKING:
    from genai.llm.async_llm import AsyncLLM

_log = logging.getLogger(__name__)

State = Literal["loading", "ready", "failed"]
Loader: TypeAlias = "Callable[[str, ModelSettings, Settings, Progress], AsyncLLM]"
_CLOSE_SECONDS = 30.0
"""How long the end of the process waits for a model that is being loaded."""


@dataclass(slots=True, kw_only=True, eq=False)
class ServedModel:
    """One model. error: why it failed; changed: set once it is no longer loading; meter: its tokens a second."""

    name: str
    settings: ModelSettings
    state: State = "loading"
    error: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    loaded: AsyncLLM | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    meter: TokenMeter = field(default_factory=TokenMeter)

    @property
    def llm(self) -> AsyncLLM:
        """The model, which is ready."""
        assert self.loaded is not None, f"{self.name} is {self.state}"
        return self.loaded


class ModelPool:
    """All models of this server. load: makes one ready, in a thread."""

    def __init__(self, settings: Settings, load: Loader | None = None) -> None:
        self._settings = settings
        self._load = load or load_model
        self._is_closing = False
        self._thread: threading.Thread | None = None
        self._models = {name: ServedModel(name=name, settings=each) for name, each in settings.models.items()}

    @property
    def models(self) -> Sequence[ServedModel]:
        """All of them, in the order of the settings."""
        return tuple(self._models.values())

    @property
    def ready(self) -> Sequence[ServedModel]:
        """Those that can be used."""
        return tuple(model for model in self.models if model.state == "ready")

    @property
    def has_failed(self) -> bool:
        """Whether not a single one can be used, now or later."""
        return all(model.state == "failed" for model in self.models)

    def start(self) -> None:
        """Begin to load; call on the event loop that serves requests."""
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._load_all, args=(loop,), name="model-loader", daemon=True)
        self._thread.start()

    def named(self, name: str | None) -> ServedModel:
        """A model by name, the first one without. Raises: ApiError."""
        model = next(iter(self._models.values())) if name is None else self._models.get(name)
        if model is None:
            message = f"no model {str(name)[:100]!r} is served here; there are: {', '.join(self._models)}"
            raise ApiError(404, message, code="model_not_found", param="model")
        request_info().model = model.name
        return model

    async def get(self, name: str | None) -> ServedModel:
        """A model that is ready; one that is loading is waited for, if that is the policy. Raises: ApiError."""
        model = self.named(name)
        if model.state == "loading" and self._settings.while_loading == "wait":
            try:
                async with asyncio.timeout(self._settings.request_timeout):
                    await model.changed.wait()
            except TimeoutError:
                pass
        if model.state == "loading":
            message = f"{model.name} is still loading"
            raise ApiError(503, message, code="model_loading", param="model")
        if model.state == "failed":
            raise ApiError(503, f"{model.name} could not be loaded: see the log", code="model_failed", param="model")
        return model

    def close(self) -> None:
        """End all texts and free all models; waits for one that is being loaded."""
        self._is_closing = True
        if self._thread is not None:
            self._thread.join(_CLOSE_SECONDS)
        for model in self.ready:
            model.llm.close()
            model.llm.llm.close()

    def _load_all(self, loop: asyncio.AbstractEventLoop) -> None:
        """On the thread that loads."""
        for model in self.models:
            if self._is_closing:
                return
            self._load_one(model)
            try:
                loop.call_soon_threadsafe(model.changed.set)
            except RuntimeError:  # the event loop is closed: the server has ended meanwhile
                return

    def _load_one(self, model: ServedModel) -> None:
        started = time.monotonic()
        _log.info("loading %s (%s)", model.name, model.settings.source)
        try:
            model.loaded = self._load(model.name, model.settings, self._settings, self._reporter(model.name))
        except _LeavingError:
            model.state, model.error = "failed", "the server is ending"
        except GenAIError as error:
            model.state, model.error = "failed", str(error)
            _log.error("%s cannot be served: %s", model.name, error)
        except Exception as error:
            model.state, model.error = "failed", f"unexpected {type(error).__name__}"
            _log.exception("%s cannot be served", model.name)
        else:
            model.state = "ready"
            _log.info("%s is ready after %.1f s", model.name, time.monotonic() - started)

    def _reporter(self, name: str) -> Progress:
        """Progress as lines in the log: what begins, and every tenth of it."""
        told: dict[str, int] = {}

        def report(label: str, done: int, total: int) -> None:
            if self._is_closing:
                raise _LeavingError
            tenths = 10 * done // total if total else 0
            if told.get(label) != tenths:
                told[label] = tenths
                _log.info("%s: %s%s", name, label, f", {10 * tenths} %" if total else "")

        return report


class _LeavingError(Exception):
    """Loading is broken off because the server ends."""


def load_model(name: str, model: ModelSettings, settings: Settings, progress: Progress) -> AsyncLLM:
    """Fetch, build and load what is missing. Raises: GenAIError's kinds."""
    from genai import models
    from genai.llm.async_llm import AsyncLLM
    from genai.llm.llm import LLM

    config = settings.engine_config(model)
    precision = model.precision or settings.precision
    path = models.package(model.source, precision=precision, device=config.device, progress=progress)
    llm = LLM(path, config, name=name)
    llm.warm_up()  # what the first constraint needs: later, all streams would wait for it
    return AsyncLLM(llm)
