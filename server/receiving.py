"""Bodies as they arrive: bounded in bytes, in values and in time, and all of them together in memory.

A value takes many times the memory of its few bytes once it is read, so values are counted while the bytes come in: who
sends millions of them is refused before they are there.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import ApiError, ClientGoneError, send_error

MAX_VALUES = 1_200_000
"""Numbers, strings, lists and objects in a body: enough for a million token ids; they take 100 MB."""
SMALL_BYTES = 1 << 20
"""So much of a body is not counted among all of them together: small requests pass beside large ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BodyLimits:
    """max_bytes: of one body; max_bytes_together: of all that are large, until they are answered; timeout: seconds."""

    max_bytes: int
    max_bytes_together: int
    timeout: float


class BodyMiddleware:
    """Reads a request's body before anything else happens, so that a slow or endless one holds nothing but itself."""

    def __init__(self, app: ASGIApp, limits: BodyLimits) -> None:
        self._app = app
        self._limits = limits
        self._held_bytes = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(self._limits)
        try:
            async with asyncio.timeout(self._limits.timeout):
                await self._read(body, scope, receive)
        except TimeoutError:
            message = f"the body was not here after {self._limits.timeout:g} s"
            await send_error(ApiError(408, message, code="body_timeout", closes=True), scope, receive, send)
        except ApiError as error:
            await send_error(error, scope, receive, send)
        else:
            await self._app(scope, _replayed(body, receive), self._releasing(body, send))
        finally:
            self._release(body)

    async def _read(self, body: _Body, scope: Scope, receive: Receive) -> None:
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit():
            body.check_length(int(declared))
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            self._held_bytes += body.add(message.get("body", b""))
            if self._held_bytes > self._limits.max_bytes_together:
                told = f"large requests hold {self._limits.max_bytes_together} bytes, the most (max_bodies_bytes)"
                raise ApiError(503, told, code="too_many_bodies", closes=True)
            if not message.get("more_body", False):
                return

    def _releasing(self, body: _Body, send: Send) -> Send:
        """`send` that counts a body no longer once the answer begins: it has been read."""

        async def sent(message: Message) -> None:
            self._release(body)
            await send(message)

        return sent

    def _release(self, body: _Body) -> None:
        self._held_bytes -= body.counted
        body.counted = 0


class _Body:
    """A body that arrives. counted: its bytes among those of all bodies."""

    def __init__(self, limits: BodyLimits) -> None:
        self.counted = 0
        self._limits = limits
        self._parts: list[bytes] = []
        self._length = 0
        self._values = ValueCounter()

    def add(self, part: bytes) -> int:
        """Take a piece; how much more is counted. Raises: ApiError."""
        self._parts.append(part)
        self._length += len(part)
        self.check_length(self._length)
        self._values.add(part)
        if self._values.count > MAX_VALUES:
            message = f"the body has more than {MAX_VALUES} values; send less, or in several requests"
            raise ApiError(413, message, code="body_too_long", closes=True)
        more = max(self._length - SMALL_BYTES, 0) - self.counted
        self.counted += more
        return more

    def check_length(self, length: int) -> None:
        """Raises: ApiError for more bytes than are taken."""
        if length > self._limits.max_bytes:
            message = (
                f"the body has {length} bytes or more; at most {self._limits.max_bytes} are taken (max_body_bytes)"
            )
            raise ApiError(413, message, code="body_too_long", closes=True)

    def taken(self) -> bytes:
        """All of it; it is not kept here any longer."""
        whole, self._parts = b"".join(self._parts), []
        return whole


class ValueCounter:
    """Counts what begins a value in JSON that comes in pieces: commas and brackets outside of strings."""

    def __init__(self) -> None:
        self.count = 0
        self._is_in_string = False
        self._is_escaped = False

    def add(self, part: bytes) -> None:
        """Take a piece."""
        if not part:
            return
        part = part[self._is_escaped :]
        plain = part.replace(b"\\\\", b"").replace(b'\\"', b"")
        self._is_escaped = plain.endswith(b"\\")
        pieces = plain.split(b'"')
        outside = b"".join(pieces[self._is_in_string :: 2])
        self.count += outside.count(b",") + outside.count(b"[") + outside.count(b"{")
        self._is_in_string ^= len(pieces) % 2 == 0


def _replayed(body: _Body, receive: Receive) -> Receive:
    """`receive` that gives the body once, and then what really comes."""
    is_given = False

    async def replay() -> Message:
        nonlocal is_given
        if is_given:
            return await receive()
        is_given = True
        return {"type": "http.request", "body": body.taken(), "more_body": False}

    return replay
