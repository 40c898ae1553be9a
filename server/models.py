"""The models that are served, by name and by other names: loaded one after another, unloaded, and loaded again.

    unloaded ──► loading ──► ready ──► unloaded     idle for long, to make room, or because an administrator says so
                    └──────► failed ──► loading     asked for again later, or by an administrator

One after another, because each takes its share of the memory that is free when its turn comes. A model is only unloaded
while no request uses it. All of this happens on the event loop; what takes long does in `server/loading.py`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Literal

from genai.errors import CapacityError, GenAIError
from server.context import request_info
from server.errors import ApiError
from server.kv_events import events_of
from server.loading import LeavingError, Loader, LoaderThread, failure, load_model, logged_progress
from server.metrics import TokenMeter
from server.settings import ModelSettings, Settings

if TYPE_CHECKING:
    from genai.llm.adapters import AdapterChoice
    from genai.llm.async_llm import AsyncLLM

_log = logging.getLogger(__name__)

State = Literal["unloaded", "loading", "ready", "failed"]
_CLOSE_SECONDS = 30.0
"""How long the end of the process waits for a model that is being loaded."""
_RETRY_SECONDS = 10.0
"""How long a model that has failed is left alone, whoever asks for it."""
_LATEST = ":latest"
"""What Ollama's clients add to names."""


@dataclass(slots=True, kw_only=True, eq=False)
class ServedModel:
    """One model.

    error: why it failed; adapters: those that it has, or will have once it is loaded, by name: where each lies; usual:
    the one that requests get, with its scale, that name the model and no adapter;
    changed: set while it is not loading; meter: its tokens a second; num_users: requests that need it; used: when
    the last one ended, or loading failed; num_bytes: what it takes while it is loaded, where that is counted.
    """

    name: str
    settings: ModelSettings
    state: State = "loading"
    error: str | None = None
    created: int = field(default_factory=lambda: int(time.time()))
    loaded: AsyncLLM | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    meter: TokenMeter = field(default_factory=TokenMeter)
    num_users: int = 0
    adapters: dict[str, str] = field(default_factory=dict)
    usual: tuple[str, float] | None = None
    used: float = field(default_factory=time.monotonic)
    num_bytes: int = 0

    def __post_init__(self) -> None:
        self.adapters |= self.settings.adapters

    @property
    def asked_name(self) -> str:
        """What the request that is being served calls it: its own name, or an adapter's."""
        return request_info().adapter or self.name

    @property
    def asked_adapter(self) -> AdapterChoice | None:
        """The adapter that the request that is being served is to have."""
        return request_info().adapter or self.usual

    @property
    def llm(self) -> AsyncLLM:
        """The model, which is ready."""
        assert self.loaded is not None, f"{self.name} is {self.state}"
        return self.loaded

    @property
    def capabilities(self) -> list[str]:
        """What the model, which is ready, can do: in Ollama's words, and `rerank`."""
        from genai.llm.scoring import can_score

        llm = self.llm.llm
        if llm.config.embedding is not None:
            return ["embedding"]
        has_tools, can_rerank = bool(llm.tokenizer.chat_template), can_score(llm.tokenizer, llm.config.rerank_prompt)
        return ["completion", *(["tools"] if has_tools else []), *(["rerank"] if can_rerank else [])]

    @property
    def is_idle(self) -> bool:
        """Whether it is loaded and nobody needs it."""
        return self.state == "ready" and not self.num_users

    def forget_usual(self) -> None:
        """Give requests the base again, if the adapter that they got has gone."""
        if self.usual is not None and self.usual[0] not in self.adapters:
            self.usual = None

    def enter(self, state: State, error: str | None = None) -> None:
        """Be in a state; whoever waits for the end of loading is told."""
        self.state, self.error = state, error
        if state == "loading":
            self.changed.clear()
        else:
            self.changed.set()


class ModelPool:
    """All models of this process.

    load: makes one ready, in a thread; elsewhere: models that others serve under this server's address, told to who
    asks for one that there is not.
    """

    def __init__(self, settings: Settings, load: Loader | None = None, *, elsewhere: Sequence[str] = ()) -> None:
        self.has_failed = False
        """Whether of the models to be loaded at the start not a single one can be used."""
        self.is_starting = True
        """Whether models are still to be loaded because the server has begun."""
        self._settings = settings
        self._load = load or load_model
        self._elsewhere = elsewhere
        self._events = events_of(settings)
        self._thread = LoaderThread()
        self._turn = asyncio.Lock()
        self._released = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._is_closing = False
        self._coming: set[str] = set()  # names of adapters that are being loaded
        self._numbers: dict[str, int] = {}  # of all adapters that there have been
        self._models: dict[str, ServedModel] = {}
        for name, model in settings.models.items():
            self._models[name] = ServedModel(name=name, settings=model)
            for adapter in model.adapters:
                self._numbers[adapter] = len(self._numbers)
            if self._is_on_demand(model):
                self._models[name].enter("unloaded")

    @property
    def models(self) -> Sequence[ServedModel]:
        """All of them, in the order of the settings."""
        return tuple(self._models.values())

    @property
    def ready(self) -> Sequence[ServedModel]:
        """Those that can be used."""
        return tuple(model for model in self.models if model.state == "ready")

    def start(self) -> None:
        """Begin to load; call on the event loop that serves requests."""
        self._spawn(self._start())
        if any(self._idle_seconds(model) for model in self.models):
            self._spawn(self._unload_idle())

    def add(self, name: str, settings: ModelSettings) -> ServedModel:
        """Serve one more, which is loaded when it is first asked for. Raises: ApiError if another one is called so."""
        self.check_free(name, settings)
        known = self._models.get(name)
        if known is None:
            known = self._models[name] = ServedModel(name=name, settings=settings)
            known.enter("unloaded")
        return known

    def check_free(self, name: str, settings: ModelSettings) -> None:
        """Raises: ApiError if another model is called so."""
        known = self._models.get(name)
        if known is not None and known.settings != settings:
            raise ApiError(409, f"another model is called {name!r} here", code="model_exists", param="name")

    def named(self, name: str | None) -> ServedModel:
        """A model by one of its names or an adapter's, the first one without. Raises: ApiError."""
        called = () if name is None else (name, name.removesuffix(_LATEST))
        adapter = next((each for each in called if self.owner_of(each)), None)
        if adapter is not None:
            model = self.owner_of(adapter)
        else:
            model = next(iter(self._models.values())) if name is None else self._found(name)
        if model is None:
            adapters = [adapter for each in self.models for adapter in each.adapters]
            known = ", ".join([*self._models, *adapters, *self._elsewhere])
            message = f"no model {str(name)[:100]!r} is served here; there are: {known}"
            raise ApiError(404, message, code="model_not_found", param="model")
        request_info().model = model.name
        request_info().adapter = adapter
        return model

    def owner_of(self, adapter: str) -> ServedModel | None:
        """The model that has an adapter of this name, if any."""
        return next((model for model in self.models if adapter in model.adapters), None)

    @property
    def adapter_numbers(self) -> Mapping[str, int]:
        """The number of each adapter that there is, which no other gets."""
        return {name: number for name, number in self._numbers.items() if self.owner_of(name)}

    async def load_adapter(self, name: str, path: str, base: str | None) -> ServedModel:
        """Add an adapter to a model, which is loaded first if need be. Raises: ApiError."""
        if self.owner_of(name) or name in self._models or name in self._coming or self._is_alias(name):
            raise ApiError(409, f"{name!r} is the name of something else here", code="model_exists", param="lora_name")
        self._coming.add(name)
        try:
            model = await self.get(base)
            await asyncio.to_thread(model.llm.llm.load_adapter, name, path)
            model.adapters[name] = path
            self._numbers.setdefault(name, len(self._numbers))
        except GenAIError as error:
            raise ApiError(400, str(error), code="invalid_adapter", param="lora_path") from None
        finally:
            self._coming.discard(name)
        return model

    async def unload_adapter(self, name: str) -> None:
        """Take an adapter away; texts that have it keep it to their end. Raises: ApiError if there is none."""
        model = self.owner_of(name)
        if model is not None and model.state == "loading":  # with the adapter
            await model.changed.wait()
            model = self.owner_of(name)
        if model is None:
            raise ApiError(404, f"no adapter {name[:100]!r} is served here", code="model_not_found", param="lora_name")
        del model.adapters[name]
        model.forget_usual()
        if model.state == "ready":
            await asyncio.to_thread(model.llm.llm.unload_adapter, name)

    def _is_alias(self, name: str) -> bool:
        return any(name in model.settings.aliases for model in self.models)

    def _found(self, name: str) -> ServedModel | None:
        """By its name, an alias, an alias with wildcards, or else the fallback."""
        if name not in self._models:
            name = name.removesuffix(_LATEST)
        if name in self._models:
            return self._models[name]
        models = self.models
        for matches in (str.__eq__, fnmatchcase):
            for model in models:
                if any(matches(name, alias) for alias in model.settings.aliases):
                    return model
        fallback = self._settings.fallback_model
        return None if fallback is None else self._models[fallback]

    async def get(self, name: str | None) -> ServedModel:
        """A model that is ready, and stays so until the request that asks has ended. Raises: ApiError.

        One that is not loaded begins to be; one that is loading is waited for, if that is the policy.
        """
        model = self.named(name)
        self._hold(model)
        if self._is_to_be_loaded(model):
            self._begin(model)
        if model.state == "loading" and self._settings.while_loading == "wait":
            try:
                async with asyncio.timeout(self._settings.request_timeout):
                    await model.changed.wait()
            except TimeoutError:
                pass
        if model.state == "loading":
            message = f"{model.name} is still loading"
            raise ApiError(503, message, code="model_loading", param="model")
        if model.state != "ready":
            raise ApiError(503, f"{model.name} could not be loaded: see the log", code="model_failed", param="model")
        return model

    async def started(self) -> None:
        """Returns when all that is to be there from the start is there, or has failed."""
        for model in self.models:
            if not self._is_on_demand(model.settings):
                await model.changed.wait()

    async def load(self, name: str) -> ServedModel:
        """Load a model now, also one that has failed; returns when it is ready or has failed. Raises: ApiError."""
        model = self.named(name)
        self._hold(model)
        if model.state in ("unloaded", "failed"):
            self._begin(model)
        await model.changed.wait()
        return model

    async def unload(self, name: str) -> ServedModel:
        """Free a model's memory now. Raises: ApiError if it is needed."""
        model = self.named(name)
        async with self._turn:
            if model.num_users:
                message = f"{model.num_users} requests use {model.name}; try again when they have ended"
                raise ApiError(409, message, code="model_in_use", param="model")
            if model.state == "ready":
                await self._unload(model)
        return model

    def close(self) -> None:
        """End all texts and free all models; waits for one that is being loaded."""
        self._is_closing = True
        self._thread.join(_CLOSE_SECONDS)
        for model in self.ready:
            _close(model.llm)
            if self._events is not None:
                self._events.forget(model.name)
        if self._events is not None:
            self._events.close()

    def _hold(self, model: ServedModel) -> None:
        """Keep a model until the request that is being served here has ended."""
        model.num_users += 1
        request_info().at_end.append(partial(self._release, model))

    def _release(self, model: ServedModel) -> None:
        model.num_users -= 1
        if model.state != "failed":  # whoever asks meanwhile does not put off the next attempt
            model.used = time.monotonic()
        self._released.set()

    def _is_on_demand(self, model: ModelSettings) -> bool:
        return (model.load or self._settings.load) == "on_demand"

    def _idle_seconds(self, model: ServedModel) -> float | None:
        """After how much time without a request it is unloaded."""
        own = model.settings.unload_after
        return self._settings.unload_after if own is None else own

    def _is_to_be_loaded(self, model: ServedModel) -> bool:
        if model.state == "failed":
            return not self.is_starting and time.monotonic() - model.used > _RETRY_SECONDS
        return model.state == "unloaded"

    def _begin(self, model: ServedModel) -> None:
        model.enter("loading")
        self._spawn(self._load_one(model))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _start(self) -> None:
        """Load what is to be there from the start, in the order of the settings."""
        first = [model for model in self.models if not self._is_on_demand(model.settings)]
        for model in first:
            await self._load_one(model)
        self.is_starting = False
        self.has_failed = bool(first) and all(model.state == "failed" for model in self.models)

    async def _load_one(self, model: ServedModel) -> None:
        async with self._turn:
            if self._is_closing or model.state != "loading":
                return
            started = time.monotonic()
            _log.info("loading %s (%s)", model.name, model.settings.source)
            loop = asyncio.get_running_loop()

            def room(num_bytes: int) -> None:
                asyncio.run_coroutine_threadsafe(self._make_room(model, num_bytes), loop).result()

            progress = logged_progress(model.name, lambda: self._is_closing)
            work = partial(self._load, model.name, model.settings, self._settings, progress, room)
            try:
                model.loaded = await self._thread.run(work)
            except Exception as error:
                model.used = time.monotonic()
                model.enter("failed", failure(error, model.name))
            else:
                if self._events is not None:
                    self._events.watch(model.name, model.loaded.llm)
                model.enter("ready")
                _log.info("%s is ready after %.1f s", model.name, time.monotonic() - started)

    async def _make_room(self, model: ServedModel, num_bytes: int) -> None:
        """Unload idle models, those first that were used longest ago, until a new one fits. Raises: CapacityError."""
        limit, model.num_bytes = self._settings.max_models_bytes, num_bytes
        if limit is None:
            return
        if num_bytes > limit:
            raise CapacityError(f"it takes {num_bytes:,} bytes, more than max_models_bytes={limit:,}")
        while sum(other.num_bytes for other in self.ready) + num_bytes > limit:
            if self._is_closing:
                raise LeavingError
            self._released.clear()
            idle = [other for other in self.ready if other.is_idle]
            if idle:
                await self._unload(min(idle, key=lambda other: other.used))
            else:
                with contextlib.suppress(TimeoutError):  # now and then, to see whether the server ends
                    await asyncio.wait_for(self._released.wait(), 0.5)

    async def _unload(self, model: ServedModel) -> None:
        llm, model.loaded = model.llm, None
        model.adapters = dict(model.settings.adapters)
        model.forget_usual()
        model.enter("unloaded")
        _log.info("unloading %s", model.name)
        if self._events is not None:
            self._events.forget(model.name)
        await asyncio.to_thread(_close, llm)

    async def _unload_idle(self) -> None:
        """Now and then, unload what nobody has used for long."""
        limits = [seconds for model in self.models if (seconds := self._idle_seconds(model))]
        while not self._is_closing:
            await asyncio.sleep(min(1.0, min(limits) / 4))
            async with self._turn:
                for model in self._overdue():
                    await self._unload(model)

    def _overdue(self) -> Iterable[ServedModel]:
        now = time.monotonic()
        for model in self.ready:
            seconds = self._idle_seconds(model)
            if model.is_idle and seconds is not None and now - model.used > seconds:
                yield model


def _close(llm: AsyncLLM) -> None:
    """End its texts and free its memory."""
    llm.close()
    llm.llm.close()
