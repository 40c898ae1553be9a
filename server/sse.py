"""Server-sent events: a stream that ends with its client, keeps quiet connections open, and tells errors as events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from server.context import request_info
from server.errors import ApiError, ClientGoneError, api_error, error_json, send_error, unless_gone

_MAX_BUFFERED = 1 << 16
"""Bytes that wait for a slow client; then its texts are paused."""
KEEP_ALIVE = b": keep-alive\n"
"""A line of its own between events: an empty one behind it would be an empty event to simple clients."""
DONE = b"data: [DONE]\n\n"
_HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}


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

    content_type = "text/event-stream; charset=utf-8"
    keep_alive = KEEP_ALIVE

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
        self.init_headers({"content-type": self.content_type, **_HEADERS})
        self._events = events
        self._keep_alive_interval = keep_alive_interval
        self._send_timeout = send_timeout
        self._error_event = error_event

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events, unless the client goes first."""
        buffer = _Buffer()
        making = asyncio.ensure_future(buffer.fill(self._events))
        try:
            await unless_gone(receive, self._send(buffer, scope, receive, send))
        finally:
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)
            await self._events.aclose()

    async def _send(self, buffer: _Buffer, scope: Scope, receive: Receive, send: Send) -> None:
        """Send what comes into the buffer. Raises: ClientGoneError if the client takes nothing any more."""
        begin: list[Message] = [{"type": "http.response.start", "status": 200, "headers": self.raw_headers}]

        async def write(data: bytes, *, more: bool = True) -> None:
            try:
                async with asyncio.timeout(self._send_timeout):
                    if begin:
                        await send(begin.pop())
                    await send({"type": "http.response.body", "body": data, "more_body": more})
            except TimeoutError:
                raise ClientGoneError from None

        while (data := await buffer.take(self._keep_alive_interval)) is not None:
            await write(data or self.keep_alive)
        if buffer.error is not None:
            problem = api_error(buffer.error)
            if begin:
                await send_error(problem, scope, receive, send)
                return
            request_info().error = problem.code
            await write(self._error_event(problem, scope["path"]))
        await write(b"", more=False)


class LineStream(EventStream):
    """The same as lines of JSON, which have no place for comments: all that a silence does is to begin the answer."""

    content_type = "application/x-ndjson"
    keep_alive = b""


class _Buffer:
    """Events between the one who makes them and the one who sends them: what has come meanwhile is sent together.

    error: what ended the events, if not their end.
    """

    def __init__(self) -> None:
        self.error: Exception | None = None
        self._parts: list[bytes] = []
        self._num_bytes = 0
        self._is_over = False
        self._arrived = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()

    async def fill(self, events: AsyncGenerator[bytes, None]) -> None:
        """Take all events, as far as there is room."""
        try:
            async for item in events:
                self._parts.append(item)
                self._num_bytes += len(item)
                self._arrived.set()
                if self._num_bytes >= _MAX_BUFFERED:
                    self._has_room.clear()
                    await self._has_room.wait()
        except Exception as error:
            self.error = error
        finally:
            self._is_over = True
            self._arrived.set()

    async def take(self, timeout: float) -> bytes | None:
        """What has come; nothing if there was silence for `timeout` seconds; None at the end."""
        if not self._arrived.is_set():
            try:
                async with asyncio.timeout(timeout):
                    await self._arrived.wait()
            except TimeoutError:
                return b""
        if not self._is_over:
            self._arrived.clear()
        elif not self._parts:
            return None
        data = b"".join(self._parts)
        self._parts.clear()
        self._num_bytes = 0
        self._has_room.set()
        return data
