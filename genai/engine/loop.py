"""One thread that owns an engine: it steps while there is work, and all who want something of it wait.

    threads, coroutines, generators ──submit, cancel, call──► mail ──► thread: calls, step, calls, step … ──► followers

Whoever waits may be interrupted at any time: nobody but the thread is ever inside a step. It begins with the first
request.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import logging
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TypeVar

from genai.engine.beside import Beside
from genai.engine.drafting.draft_model import DraftModel
from genai.engine.engine import Engine
from genai.engine.request import Request
from genai.engine.sequence import Job
from genai.engine.streams import Bell, Follower
from genai.errors import ConfigError, GenAIError, bare
from genai.runtime.runner import Runner

_log = logging.getLogger(__name__)

T = TypeVar("T")
_LOOK_SECONDS = 0.05
"""How often an engine with nothing but paused requests looks for deadlines and readers that are gone."""
_PATIENCE_SECONDS = 1.0
"""How long who waits sleeps at a time: on Windows Ctrl-C comes through only in between."""


@dataclass(slots=True, kw_only=True)
class _Call:
    """Something to do between two steps, as soon as it is due. is_off: whoever asked has been interrupted."""

    function: Callable[[Engine], object]
    is_due: Callable[[Engine], bool] = lambda engine: True
    error: Exception | None = None
    is_off: bool = False
    done: threading.Event = field(default_factory=threading.Event)

    def run(self, engine: Engine) -> bool:
        """Do it, if it is due; whether it is done with."""
        try:
            if not self.is_off:
                if not self.is_due(engine):
                    return False
                self.function(engine)
        except Exception as error:
            self.error = bare(error) if isinstance(error, GenAIError) else error
        self.done.set()
        return True


class EngineLoop:
    """An engine and its runner, for any number of threads. drafting: the same model as another one's drafter.

    It ends by `close` or `abandon`, or with the process. Until there is a request, there is no thread.
    """

    def __init__(self, engine: Engine, runner: Runner) -> None:
        self.drafting = DraftModel(self._unless_busy)
        self.bell = Bell()
        self._beside = Beside()
        engine.tell_on(self._beside, self.bell.ring)
        self._engine: Engine | None = engine
        self._runner: Runner | None = runner
        self._mail: SimpleQueue[_Call | None] = SimpleQueue()  # that which destructors may write to
        self._calls: list[_Call] = []
        self._turn = threading.Lock()  # whose the runner is: a step's, or a draft's for another model
        self._entry = threading.RLock()  # nothing slips in behind the last look at inbox and mail; signals may close
        self._is_closing = False
        self._thread: threading.Thread | None = None

    @property
    def is_closed(self) -> bool:
        """Whether nothing is taken any more."""
        return self._is_closing

    @property
    def engine(self) -> Engine:
        """The engine, to look at. Raises: ConfigError once this is closed."""
        engine = None if self._is_closing else self._engine
        if engine is None:
            raise ConfigError("this model is closed; load it again")
        return engine

    def submit(self, request: Request, follower: Follower | None) -> Job:
        """Queue a request; the follower, if there is one, is told about it on the loop's thread.

        Raises: as `Engine.submit`; ConfigError once this is closed.
        """
        with self._entry:
            try:
                job = self._started().submit(dataclasses.replace(request, sink=follower))
            except GenAIError as error:
                raise bare(error) from None
        self._mail.put(None)
        return job

    def check(self, request: Request) -> None:
        """Refuse what `submit` would, but for a full queue. Raises: ConfigError, CapacityError."""
        with self._entry:
            try:
                self._started().check(request)
            except GenAIError as error:
                raise bare(error) from None

    def cancel(self, job: Job) -> None:
        """End a request before the next step runs; cancelling what has ended does nothing. Destructors may."""
        if not job.is_over and (engine := self._engine) is not None:
            engine.cancel(job)
            self._mail.put(None)

    def caught_up(self, job: Job) -> None:
        """The reader of a request wants more; does not wait."""
        self._mail.put(_Call(function=lambda engine: engine.caught_up(job)))

    def call(self, function: Callable[[Engine], T], is_due: Callable[[Engine], bool] = lambda engine: True) -> T:
        """Run a function on the loop's thread between two steps, as soon as it is due; returns or raises what it does.

        Raises: ConfigError once this is closed.
        """
        results: list[T] = []
        call = _Call(function=lambda engine: results.append(function(engine)), is_due=is_due)
        try:
            with self._entry:
                self._started()
                self._mail.put(call)
            self.wait(call.done)
        finally:
            call.is_off = True
        if call.error is not None:
            raise call.error
        return results[0]

    def settle(self) -> None:
        """Wait until what was cancelled is over and its rows are free, if there is somebody to wait for."""
        with contextlib.suppress(GenAIError):  # this is closed, a fork, or its own thread's
            self.call(lambda engine: engine.settle())

    def wait(self, event: threading.Event) -> None:
        """Wait for what the loop's thread sets. Raises: GenAIError on that thread, or if there is none any more."""
        if self._is_here:
            raise GenAIError("the engine's own thread cannot wait for it; ask from another one")
        while not event.wait(_PATIENCE_SECONDS):
            if not self._is_alive and not event.is_set():
                raise GenAIError("the engine's thread has ended; a model has to be loaded after a fork")

    def close(self) -> None:
        """End what runs, each with an error of its own, and free graph, cache and thread, whoever still has this.

        The step that runs is waited for. Closing twice does nothing.
        """
        with self._entry:
            self._is_closing = True
        if self._thread is None:
            self._end()
        elif not self._is_alive:  # it has ended, or this is a fork's copy, where locks may be held for ever
            self._engine = self._runner = None
        elif not self._is_here:
            self._mail.put(None)
            self._thread.join()

    def abandon(self) -> None:
        """As `close`, but waiting for nothing: for destructors, of a model that nobody uses any more."""
        self._is_closing = True
        if self._thread is None:
            self._engine = self._runner = None
        self._mail.put(None)

    @property
    def _is_here(self) -> bool:
        """Whether this is called on a thread of its own, which nothing may hold up."""
        return threading.current_thread() is self._thread or self._beside.is_here

    @property
    def _is_alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def _started(self) -> Engine:
        """The engine, with its thread at work. Raises: ConfigError, GenAIError."""
        engine = self.engine
        if self._thread is None:
            atexit.register(self.close)  # an interpreter that ends under a run of the graph aborts
            self._thread = threading.Thread(target=self._run, name="genai-engine", daemon=True)
            try:
                self._thread.start()
            except RuntimeError as error:
                self._thread = None
                raise GenAIError(f"no thread for the engine: {error}; end some others") from None
        elif not self._thread.is_alive():
            raise GenAIError("this process is a fork of the one that runs the model; load it here")
        return engine

    def _run(self) -> None:
        try:
            while not self._is_closing:
                self._take_turn()
                self._read_mail()
        finally:
            self._end()

    def _take_turn(self) -> None:
        """Do what is due and advance all texts by a step. A model's own texts come before those that it drafts for."""
        with self._turn:
            engine, runner = self._engine, self._runner
            assert engine is not None, "it goes when the thread does"
            assert runner is not None, "it goes when the thread does"
            self.drafting.free_all(runner)
            self._answer(engine)
            if engine.has_work:
                self._step(engine)
                self._answer(engine)
            self.bell.ring()

    @staticmethod
    def _step(engine: Engine) -> None:
        """One step. An error that nobody foresaw has ended all requests; the engine is ready for others."""
        try:
            for job in engine.jobs:  # what is paused delivers nothing, and so never finds out itself
                if isinstance(job.sink, Follower) and job.sink.is_gone:
                    engine.cancel(job)
            engine.step()
        except Exception:
            with contextlib.suppress(Exception):  # a handler's own
                _log.exception("a step of the engine failed; all its requests have ended")

    def _answer(self, engine: Engine) -> None:
        self._calls = [call for call in self._calls if not call.run(engine)]

    def _read_mail(self) -> None:
        """Take what has come; with nothing to run, wait for it."""
        seconds = self._spare_seconds()
        try:
            while True:
                call = self._mail.get(timeout=seconds)
                seconds = 0.0
                if call is not None:
                    self._calls.append(call)
        except Empty:
            pass

    def _spare_seconds(self) -> float | None:
        """How long to wait for mail: None for as long as it takes."""
        engine = self._engine
        if engine is None or not engine.has_work or (engine.is_stalled and engine.is_held):
            return None
        return _LOOK_SECONDS if engine.is_stalled else 0.0

    def _end(self) -> None:
        """End everything and let go of it: nobody else has the engine, the runner or what they hold."""
        with self._turn:
            engine, runner = self._engine, self._runner
            self._engine = self._runner = None
            if engine is not None and runner is not None:
                engine.settle()
                engine.fail_all(ConfigError("this model was closed before the text had ended; load it again"))
                self.drafting.free_all(runner)
            self._beside.close()
            self.bell.ring()
        while not self._mail.empty():
            if (call := self._mail.get()) is not None:
                self._calls.append(call)
        for call in self._calls:
            call.error = ConfigError("this model was closed meanwhile; load it again")
            call.done.set()
        self._calls = []
        atexit.unregister(self.close)

    @contextlib.contextmanager
    def _unless_busy(self) -> Iterator[Runner | None]:
        """The runner to draft with, if nobody is at it and there is no text of its own."""
        if not self._turn.acquire(blocking=False):
            yield None
            return
        try:
            engine = self._engine
            yield None if engine is None or engine.has_work else self._runner
        finally:
            self._turn.release()
