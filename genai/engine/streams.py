"""Who follows a request through the loop: who waits for its end, and who reads each piece, a thread or a coroutine.

    coroutine ──submit──► loop ──► the request's feed: reader, wake ──► coroutine: take

The engine never waits for a reader: a text whose reader is `MAX_UNREAD` pieces behind is paused (the others go on)
until it catches up, leaves or times out. A reader that is gone, its event loop closed or its stream dropped, cancels
its request.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from genai.engine.request import Request
from genai.engine.sequence import Job, Sink, State, TokenEvent
from genai.errors import QueueFullError

if TYPE_CHECKING:
    from genai.engine.loop import EngineLoop

Item = TypeVar("Item")
MAX_UNREAD = 64
"""Unread items at which a text pauses, until its reader has taken them."""


class Reader(Sink, Protocol[Item]):
    """A sink that keeps what it makes of events until it is taken."""

    @property
    def num_unread(self) -> int:
        """Items that have not been taken."""
        ...

    def take(self) -> list[Item]:
        """The items since the last call."""
        ...


class Follower:
    """The loop's end of a request, on its thread: hands events to a sink, and tells when the last one is delivered."""

    def __init__(self, sink: Sink, ended: Callable[[], object]) -> None:
        self.is_over = False
        self._sink = sink
        self._ended = ended

    @property
    def is_gone(self) -> bool:
        """Whether nobody is left who could read on."""
        return False

    def accept(self, event: TokenEvent) -> bool:
        """Let the sink judge an event."""
        return self._sink.accept(event)

    def deliver(self, event: TokenEvent) -> None:
        """Hand a final event over."""
        try:
            self._sink.deliver(event)
        finally:
            job = event.sequence.job
            assert job is not None, "what runs belongs to a job"
            if job.is_over:
                self.is_over = True
                self._ended()


class Bell:
    """Wakes event loops, each once for the tokens of a step, however many of its readers have something to read."""

    def __init__(self) -> None:
        self._due: dict[asyncio.AbstractEventLoop, list[asyncio.Event]] = {}

    def add(self, clock: asyncio.AbstractEventLoop, arrived: asyncio.Event) -> None:
        """Somebody on this event loop has something to read."""
        self._due.setdefault(clock, []).append(arrived)

    def ring(self) -> None:
        """Wake them."""
        due, self._due = self._due, {}
        for clock, events in due.items():
            with contextlib.suppress(RuntimeError):  # it is closed: `is_gone` says so before the next step
                clock.call_soon_threadsafe(_set_all, events)


def _set_all(events: list[asyncio.Event]) -> None:
    for event in events:
        event.set()


class Feed(Follower, Generic[Item]):
    """Follows for a reader that is woken for each piece."""

    def __init__(
        self, reader: Reader[Item], wake: Callable[[], object], ended: Callable[[], object] = lambda: None
    ) -> None:
        super().__init__(reader, ended)
        self._reader = reader
        self._wake = wake

    @property
    def has_more(self) -> bool:
        """Whether there is something to read, or may be."""
        return not self.is_over or self._reader.num_unread > 0

    def deliver(self, event: TokenEvent) -> None:
        """Hand a final event over, and pause a text whose reader is far behind; the run under way brings one more."""
        try:
            super().deliver(event)
            if event.finish_reason is None and self._reader.num_unread >= MAX_UNREAD - 1:
                event.sequence.pause(State.READER_BEHIND)
        finally:
            self._wake()

    def take(self, loop: EngineLoop, job: Job) -> Iterator[Item]:
        """What has come; who asks for more has caught up."""
        yield from self._reader.take()
        if any(sequence.state is State.READER_BEHIND for sequence in job.sequences):
            loop.caught_up(job)


class Stream(Generic[Item]):
    """What one request's reader sees: an asynchronous iterator over its items that ends with the job.

    Leaving it early (`aclose`, or an exception in the reader) cancels the request, and so does dropping it unread.
    """

    def __init__(self, loop: EngineLoop, feed: _AsyncFeed[Item], job: Job, keeps: object) -> None:
        self.job = job
        self._loop = loop
        self._feed = feed
        self._keeps = keeps
        weakref.finalize(self, loop.cancel, job).atexit = False

    async def __aiter__(self) -> AsyncIterator[Item]:
        feed = self._feed
        try:
            while feed.has_more:
                await feed.arrived.wait()
                feed.arrived.clear()
                for item in feed.take(self._loop, self.job):
                    yield item
            if self.job.error is not None:
                raise self.job.error
        finally:
            self.cancel()

    def cancel(self) -> None:
        """End the request; its rows are free before the next step runs."""
        self._loop.cancel(self.job)


class Streams:
    """Requests of coroutines; others may use the loop as well. is_closed: no new ones are taken."""

    def __init__(self, loop: EngineLoop) -> None:
        self.loop = loop
        self._lock = threading.Lock()
        self.is_closed = False
        self._open: set[_AsyncFeed[Any]] = set()  # those that have not had their last event

    def submit(self, request: Request, reader: Reader[Item], keeps: object = None) -> Stream[Item]:
        """Queue a request and follow it through a reader; call on the event loop that reads the stream.

        keeps: what the stream needs as long as it is there. Raises: as `EngineLoop.submit`; QueueFullError once this
        drains or is closed.
        """
        with self._lock:
            if self.is_closed:
                raise QueueFullError("the engine is shutting down and takes no new requests")
            feed = _AsyncFeed(reader, self.loop.bell, self._open.discard)
            self._open.add(feed)
            try:
                feed.job = self.loop.submit(request, feed)
            except BaseException:
                self._open.discard(feed)
                raise
        return Stream(self.loop, feed, feed.job, keeps)

    async def drain(self, timeout: float | None = None) -> bool:
        """Refuse new requests and wait for the accepted ones; True if all ended within `timeout` seconds."""
        self.is_closed = True
        clock = asyncio.get_running_loop()
        deadline = None if timeout is None else clock.time() + timeout
        while self._open and (deadline is None or clock.time() < deadline):
            await asyncio.sleep(0.01)
        return not self._open

    def close(self) -> None:
        """Refuse new requests and end the accepted ones, before the next step. Closing twice does nothing."""
        with self._lock:
            self.is_closed = True
            jobs = [feed.job for feed in tuple(self._open) if feed.job is not None]
        for job in jobs:
            self.loop.cancel(job)
        if jobs:
            self.loop.settle()


class _AsyncFeed(Feed[Item]):
    """The feed of a coroutine, whose event loop it wakes."""

    def __init__(self, reader: Reader[Item], bell: Bell, ended: Callable[[_AsyncFeed[Item]], object]) -> None:
        self.arrived = asyncio.Event()
        self.job: Job | None = None
        self._clock = asyncio.get_running_loop()
        super().__init__(reader, partial(bell.add, self._clock, self.arrived), lambda: ended(self))

    @property
    def is_gone(self) -> bool:
        """Whether the event loop is closed."""
        return self._clock.is_closed()
