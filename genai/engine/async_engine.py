"""An engine for asyncio: one thread steps it, any number of coroutines read from it.

    coroutine ──submit──► inbox ──► engine thread: step, step, step … ──► each request's reader ──► coroutine

The event loop never waits for a run of the graph, and the engine never waits for a reader: a request whose reader is
`MAX_UNREAD` items behind is paused (its row is kept, the others go on) until it catches up, leaves or times out.
"""

from __future__ import annotations

import asyncio
import dataclasses
import threading
from collections.abc import AsyncIterator
from typing import Generic, Protocol, TypeVar

from genai.engine.engine import Engine, Request
from genai.engine.sequence import Sequence, Sink, TokenEvent

Item = TypeVar("Item")
MAX_UNREAD = 64
"""Unread items at which a request pauses, until its reader has taken them."""


class AsyncEngine:
    """Owns an engine and the thread that steps it."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._wake = threading.Condition()
        self._is_woken = False
        self._is_closed = False
        self._thread = threading.Thread(target=self._run, name="genai-engine", daemon=True)
        self._thread.start()

    def submit(self, request: Request, reader: Reader[Item]) -> Stream[Item]:
        """Queue a request and follow it through a reader; call on the event loop that reads the stream.

        Raises: as `Engine.submit`.
        """
        stream = Stream(self, reader)
        stream.sequence = self.engine.submit(dataclasses.replace(request, sink=stream))
        self.wake()
        return stream

    def wake(self) -> None:
        """Tell the engine's thread that there is something to do."""
        with self._wake:
            self._is_woken = True
            self._wake.notify()

    async def drain(self, timeout: float) -> bool:
        """Refuse new requests and wait for the accepted ones; True if all ended within `timeout` seconds."""
        self.engine.drain()
        deadline = asyncio.get_running_loop().time() + timeout
        while self.engine.has_work and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)
        return not self.engine.has_work

    def close(self) -> None:
        """End every request and stop the thread."""
        self._is_closed = True
        self.wake()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_closed:
            if self.engine.has_work:
                self.engine.step()
            if not self.engine.has_work or self.engine.is_stalled:
                # Paused requests still have deadlines, so a stalled engine looks again by itself.
                with self._wake:
                    self._wake.wait_for(lambda: self._is_woken, 0.05 if self.engine.has_work else None)
                    self._is_woken = False
        self.engine.drain()
        self.engine.cancel_all()


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
    """What one request's reader sees: an asynchronous iterator over its items that ends with the sequence.

    Leaving it early (`aclose`, or an exception in the reader) cancels the request.
    """

    def __init__(self, owner: AsyncEngine, reader: Reader[Item]) -> None:
        self.sequence: Sequence
        self._owner = owner
        self._reader = reader
        self._loop = asyncio.get_running_loop()
        self._arrived = asyncio.Event()
        self._is_over = False

    async def __aiter__(self) -> AsyncIterator[Item]:
        try:
            while not self._is_over or self._reader.num_unread:
                await self._arrived.wait()
                self._arrived.clear()
                for item in self._reader.take():
                    yield item
                if self.sequence.is_paused:
                    self.sequence.is_paused = False
                    self._owner.wake()
        finally:
            if not self._is_over:
                self.cancel()

    def cancel(self) -> None:
        """End the request; its row is free before the next step runs."""
        self._owner.engine.cancel(self.sequence)
        self._owner.wake()

    def accept(self, event: TokenEvent) -> bool:
        """On the engine's thread: let the reader judge an event."""
        return self._reader.accept(event)

    def deliver(self, event: TokenEvent) -> None:
        """On the engine's thread: hand a final event over, and pause a sequence whose reader is far behind."""
        self._reader.deliver(event)
        self._is_over = event.finish_reason is not None
        event.sequence.is_paused = self._reader.num_unread >= MAX_UNREAD
        try:
            self._loop.call_soon_threadsafe(self._arrived.set)
        except RuntimeError:  # the reader's event loop is closed: nobody will read on
            self._owner.engine.cancel(event.sequence)
