"""An engine for asyncio: one thread steps it, any number of coroutines read from it.

    coroutine ──submit──► inbox ──► engine thread: step, step, step … ──► each request's reader ──► coroutine

The event loop never waits for a run of the graph, and the engine never waits for a reader: a request whose reader is
`MAX_UNREAD` items behind is paused (the others go on) until it catches up, leaves or times out. A reader that is gone,
its event loop closed or its stream dropped, cancels its request.
"""

from __future__ import annotations

import asyncio
import atexit
import dataclasses
import logging
import threading
import weakref
from collections.abc import AsyncIterator
from typing import Generic, Protocol, TypeVar

from genai.engine.engine import Engine
from genai.engine.request import Request
from genai.engine.sequence import Job, Sink, TokenEvent
from genai.errors import QueueFullError

_log = logging.getLogger(__name__)

Item = TypeVar("Item")
MAX_UNREAD = 64
"""Unread items at which a request pauses, until its reader has taken them."""
_LOOK_SECONDS = 0.05
"""How often an engine with nothing but paused requests looks for deadlines and closed event loops."""


class AsyncEngine:
    """Owns an engine and the thread that steps it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._changed = threading.Condition()  # guards what follows
        self._is_woken = False
        self._is_closed = False
        self._open: dict[Job, asyncio.AbstractEventLoop] = {}  # requests that have not ended, and who reads them
        self._thread = threading.Thread(target=self._run, name="genai-engine", daemon=True)
        self._thread.start()
        atexit.register(self.close)  # an interpreter that ends under a run of the graph aborts

    def submit(self, request: Request, reader: Reader[Item]) -> Stream[Item]:
        """Queue a request and follow it through a reader; call on the event loop that reads the stream.

        Raises: as `Engine.submit`; QueueFullError once this is closed.
        """
        feed = _Feed(self, reader)
        with self._changed:  # so that none slips in behind the last look at the inbox
            if self._is_closed:
                raise QueueFullError("the engine is shutting down and takes no new requests")
            job = self.engine.submit(dataclasses.replace(request, sink=feed))
            self._open[job] = feed.loop
        self.wake()
        return Stream(self, feed, job)

    def cancel(self, job: Job) -> None:
        """End a request; its rows are free before the next step runs. Cancelling what has ended does nothing."""
        if not job.is_over:
            self.engine.cancel(job)
            self.wake()

    def wake(self) -> None:
        """Tell the engine's thread that there is something to do."""
        with self._changed:
            self._is_woken = True
            self._changed.notify()

    async def drain(self, timeout: float | None = None) -> bool:
        """Refuse new requests and wait for the accepted ones; True if all ended within `timeout` seconds."""
        self.engine.drain()
        loop = asyncio.get_running_loop()
        deadline = None if timeout is None else loop.time() + timeout
        while self._open and (deadline is None or loop.time() < deadline):
            await asyncio.sleep(0.01)
        return not self._open

    def close(self) -> None:
        """End every request and stop the thread, after the step that it is in. Closing twice does nothing."""
        self._is_closed = True
        self.wake()
        self._thread.join()
        atexit.unregister(self.close)

    def ended(self, job: Job) -> None:
        """On the engine's thread: a request has had its last event."""
        with self._changed:
            self._open.pop(job, None)

    def _run(self) -> None:
        while not self._is_closed:
            self._step()
            if not self.engine.has_work or self.engine.is_stalled:
                with self._changed:
                    self._changed.wait_for(lambda: self._is_woken, _LOOK_SECONDS if self.engine.has_work else None)
                    self._is_woken = False
        with self._changed:
            self.engine.drain()
        self.engine.cancel_all()

    def _step(self) -> None:
        """One step. An error that nobody foresaw has ended all requests; the engine is ready for others."""
        try:
            self._cancel_orphans()
            if self.engine.has_work:
                self.engine.step()
        except Exception:
            _log.exception("a step of the engine failed; all its requests have ended")

    def _cancel_orphans(self) -> None:
        """What is paused delivers nothing, and so would never notice that its event loop is closed."""
        with self._changed:
            orphans = [job for job, loop in self._open.items() if loop.is_closed()]
        for job in orphans:
            self.engine.cancel(job)


class Reader(Sink, Protocol[Item]):
    """A sink that keeps what it makes of events until it is taken."""

    @property
    def num_unread(self) -> int:
        """Items that have not been taken."""
        ...

    def take(self) -> list[Item]:
        """The items since the last call."""
        ...


class Stream(Generic[Item]):
    """What one request's reader sees: an asynchronous iterator over its items that ends with the job.

    Leaving it early (`aclose`, or an exception in the reader) cancels the request, and so does dropping it unread.
    """

    def __init__(self, owner: AsyncEngine, feed: _Feed[Item], job: Job) -> None:
        self.job = job
        self._owner = owner
        self._feed = feed
        weakref.finalize(self, owner.cancel, job).atexit = False

    async def __aiter__(self) -> AsyncIterator[Item]:
        feed = self._feed
        try:
            while not feed.is_over or feed.reader.num_unread:
                await feed.arrived.wait()
                feed.arrived.clear()
                for item in feed.reader.take():
                    yield item
                self._resume()
            if self.job.error is not None:
                raise self.job.error
        finally:
            self.cancel()

    def cancel(self) -> None:
        """End the request; its rows are free before the next step runs."""
        self._owner.cancel(self.job)

    def _resume(self) -> None:
        """The reader has caught up."""
        paused = [sequence for sequence in self.job.sequences if sequence.is_paused]
        for sequence in paused:
            sequence.is_paused = False
        if paused:
            self._owner.wake()


class _Feed(Generic[Item]):
    """The engine's end of a stream: a sink that hands events to the reader and wakes its event loop."""

    def __init__(self, owner: AsyncEngine, reader: Reader[Item]) -> None:
        self.reader = reader
        self.loop = asyncio.get_running_loop()
        self.arrived = asyncio.Event()
        self.is_over = False
        self._owner = owner

    def accept(self, event: TokenEvent) -> bool:
        """On the engine's thread: let the reader judge an event."""
        return self.reader.accept(event)

    def deliver(self, event: TokenEvent) -> None:
        """On the engine's thread: hand a final event over, and pause a sequence whose reader is far behind."""
        try:
            self.reader.deliver(event)
            event.sequence.is_paused = event.finish_reason is None and self.reader.num_unread >= MAX_UNREAD
        finally:
            job = event.sequence.job
            assert job is not None, "what runs belongs to a job"
            if job.is_over:
                self.is_over = True
                self._owner.ended(job)
            self._wake_reader(job)

    def _wake_reader(self, job: Job) -> None:
        try:
            self.loop.call_soon_threadsafe(self.arrived.set)
        except RuntimeError:  # the event loop is closed: nobody will read on
            self._owner.cancel(job)
