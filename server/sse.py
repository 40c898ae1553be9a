"""Server-sent events: a stream that ends with its client, keeps quiet connections open, and tells errors as events."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from server.context import request_info
from server.errors import ApiError, ClientGoneError, api_error, error_json, send_error

KEEP_ALIVE = b": keep-alive\n\n"
DONE = b"data: [DONE]\n\n"
_HEADERS = {"content-type": "text/event-stream; charset=utf-8", "cache-control": "no-cache", "x-accel-buffering": "no"}


def event(data: str, name: str | None = None) -> bytes:
    """One event; data: one line (JSON)."""
    return f"event: {name}\ndata: {data}\n\n".encode() if name else f"data: {data}\n\n".encode()


def openai_error_event(error: ApiError, path: str) -> bytes:
    """How OpenAI's clients are told of an error in the middle of a stream."""
    return event(error_json(error, path).decode())


class EventStream(Response):
    """Sends events as they come.

    The status is sent with the first event (or the first silence), so that an error before it is a plain answer with
    its own status. The generator is closed when the client has gone, or takes nothing for `send_timeout` seconds.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        *,
        keep_alive_interval: float,
        send_timeout: float,
        error_event: Callable[[ApiError, str], bytes] = openai_error_event,
    ) -> None:
        self.status_code = 200
        self.background = None
        self.init_headers(_HEADERS)
        self._events = events
        self._keep_alive_interval = keep_alive_interval
        self._send_timeout = send_timeout
        self._error_event = error_event

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, unless the client goes first."""
        output = _Output((scope, receive, send), self.raw_headers, self._send_timeout)
        sending = asyncio.ensure_future(self._send_events(output))
        leaving = asyncio.ensure_future(_disconnected(receive))
        try:
            await asyncio.wait((sending, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not sending.done():
                raise ClientGoneError
            sending.result()
        finally:
            for task in (sending, leaving):
                task.cancel()
            await asyncio.gather(sending, leaving, return_exceptions=True)
            await self._events.aclose()

    async def _send_events(self, output: _Output) -> None:
        try:
            async with contextlib.aclosing(_with_silences(self._events, self._keep_alive_interval)) as events:
                async for item in events:
                    await output.write(KEEP_ALIVE if item is None else item)
        except ClientGoneError:
            raise
        except Exception as error:
            problem = api_error(error)
            if not output.is_begun:
                await output.refuse(problem)
                return
            request_info().error = problem.code
            await output.write(self._error_event(problem, output.path))
        await output.end()


async def _with_silences(events: AsyncGenerator[bytes, None], interval: float) -> AsyncGenerator[bytes | None, None]:
    """The events, and None for each `interval` seconds in which there was none."""
    while True:
        upcoming = asyncio.ensure_future(anext(events))
        try:
            while not (await asyncio.wait((upcoming,), timeout=interval))[0]:
                yield None
        finally:
            if not upcoming.done():
                upcoming.cancel()
                await asyncio.gather(upcoming, return_exceptions=True)
        try:
            item = upcoming.result()
        except StopAsyncIteration:
            return
        yield item


class _Output:
    """The client's end of a stream."""

    def __init__(
        self, connection: tuple[Scope, Receive, Send], headers: list[tuple[bytes, bytes]], timeout: float
    ) -> None:
        self.is_begun = False
        self.path: str = connection[0]["path"]
        self._connection = connection
        self._headers = headers
        self._timeout = timeout

    async def write(self, data: bytes) -> None:
        """Send a piece. Raises: ClientGoneError if the client takes nothing any more."""
        await self._begin()
        await self._send(data, more=True)

    async def end(self) -> None:
        """Nothing more comes."""
        await self._begin()
        await self._send(b"", more=False)

    async def refuse(self, error: ApiError) -> None:
        """Answer with an error instead of a stream."""
        await send_error(error, *self._connection)

    async def _begin(self) -> None:
        if not self.is_begun:
            self.is_begun = True
            await self._connection[2]({"type": "http.response.start", "status": 200, "headers": self._headers})

    async def _send(self, data: bytes, *, more: bool) -> None:
        try:
            async with asyncio.timeout(self._timeout):
                await self._connection[2]({"type": "http.response.body", "body": data, "more_body": more})
        except TimeoutError:
            raise ClientGoneError from None


async def _disconnected(receive: Receive) -> None:
    """Return once the client has hung up."""
    while (await receive())["type"] != "http.disconnect":
        pass
