"""What clients may take: connections, the size of a body, the time to send it, and requests at a time."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TypeAlias

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.context import request_info
from server.errors import ApiError, ClientGoneError, send_error
from server.lifecycle import ALWAYS_ANSWERED, Lifecycle

_LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]")

Gate: TypeAlias = Callable[[Scope], AbstractContextManager[None]]
"""What a request is inside of while it is answered; whom it refuses, it raises ApiError at."""


class GateMiddleware:
    """Lets requests through several gates, one after another."""

    def __init__(self, app: ASGIApp, *gates: Gate) -> None:
        self._app = app
        self._gates = gates

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        with ExitStack() as passed:
            try:
                for gate in self._gates if scope["type"] == "http" else ():
                    passed.enter_context(gate(scope))
            except ApiError as error:
                await send_error(error, scope, receive, send)
                return
            await self._app(scope, receive, send)


class BodyMiddleware:
    """Reads a request's body before anything else happens, so that a slow or endless one holds nothing but itself.

    max_bytes: the longest body; timeout: seconds in which it has to be here.
    """

    def __init__(self, app: ASGIApp, max_bytes: int, timeout: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._timeout = timeout

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._timeout):
                body = await self._read(scope, receive)
        except TimeoutError:
            message = f"the body was not here after {self._timeout:g} s"
            await send_error(ApiError(408, message, code="body_timeout", closes=True), scope, receive, send)
        except ApiError as error:
            await send_error(error, scope, receive, send)
        else:
            await self._app(scope, _replayed(body, receive), send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes:
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if declared.isdigit() and int(declared) > self._max_bytes:
            raise self._too_long(int(declared))
        parts: list[bytes] = []
        length = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            parts.append(message.get("body", b""))
            length += len(parts[-1])
            if length > self._max_bytes:
                raise self._too_long(length)
            if not message.get("more_body", False):
                return b"".join(parts)

    def _too_long(self, length: int) -> ApiError:
        message = f"the body has {length} bytes or more; at most {self._max_bytes} are taken (max_body_bytes)"
        return ApiError(413, message, code="body_too_long", closes=True)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` that gives the body once, and then what really comes."""
    given: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return given.pop() if given else await receive()

    return replay


@contextmanager
def connection_limit(max_connections: int, lifecycle: Lifecycle, scope: Scope) -> Iterator[None]:
    """A gate that refuses requests while more connections are open; not those that ask how the server is."""
    if lifecycle.count_connections() > max_connections and scope["path"] not in ALWAYS_ANSWERED:
        message = f"more than {max_connections} connections are open (max_connections)"
        raise ApiError(503, message, code="too_many_connections", closes=True)
    yield


class KeyLimit:
    """A gate that refuses more requests at a time with one API key than are allowed; to come after the keys' own."""

    def __init__(self, max_concurrent: int | None) -> None:
        self._max_concurrent = max_concurrent
        self._active: Counter[int | None] = Counter()

    @contextmanager
    def __call__(self, scope: Scope) -> Iterator[None]:
        """Count a request. Raises: ApiError."""
        key = request_info().key
        if key is not None and self._max_concurrent is not None and self._active[key] >= self._max_concurrent:
            message = f"{self._active[key]} requests with this key are being answered, the most allowed"
            raise ApiError(429, message, code="too_many_requests")
        self._active[key] += 1
        try:
            yield
        finally:
            self._active[key] -= 1


@contextmanager
def known_host(names: Sequence[str], scope: Scope) -> Iterator[None]:
    """A gate that refuses requests that call the server by a name that is not its own.

    A page that a browser shows may point a name of its own at this machine ("DNS rebinding"): by the name it is told
    from a page that may ask.
    """
    given = dict(scope["headers"]).get(b"host", b"").decode("latin-1").lower()
    name, colon, port = given.rpartition(":")
    if names and (name if colon and port.isdigit() else given) not in map(str.lower, names):
        message = "the server is not called so; allowed_hosts lists the names by which it may be called"
        raise ApiError(403, message, code="unknown_host")
    yield


def allowed_hosts(names: Sequence[str], *, is_on_loopback: bool, has_keys: bool) -> Sequence[str]:
    """By which names the server may be called; none for any.

    Without a key only the name tells who asks; a server that only this machine reaches has few.
    """
    return names or (_LOCAL_NAMES if is_on_loopback and not has_keys else ())
