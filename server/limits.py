"""What clients may take: connections, and requests at a time. (Bodies have limits of their own: `server.receiving`.)"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import TypeAlias

from starlette.types import ASGIApp, Receive, Scope, Send

from server.context import request_info
from server.errors import ApiError, send_error
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
