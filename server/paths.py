"""Paths as clients write them: with /v1, without or twice, with a slash at the end, HEAD where GET is.

Comes before everything that looks at a path: keys, limits and the log see the one that is served.
"""

from __future__ import annotations

from collections.abc import Iterator

from starlette.routing import BaseRoute, Match
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_MAX_PATH = 1000


class PathMiddleware:
    """Calls a path by its own name."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http":
            routes: list[BaseRoute] = scope["app"].routes
            scope["path"], scope["root_path"] = own_name(scope), ""  # in place: who logs it has the same scope
            if not _is_there(routes, scope, scope["path"]):
                known = (path for path in other_names(scope["path"]) if _is_there(routes, scope, path))
                scope["path"] = next(known, scope["path"])
            if scope["method"] == "HEAD":
                scope["method"], send = "GET", _without_body(send)
        await self._app(scope, receive, send)


def own_name(scope: Scope) -> str:
    """The path as routes and gates know it: without what the server is mounted under, and without what ends lines.

    Routes would match a line break at its end, and gates, which compare, would not.
    """
    path, root = str(scope["path"]), str(scope.get("root_path", ""))
    if root and f"{path}/".startswith(f"{root}/"):
        path = path[len(root) :]
    return path.rstrip("/\n") or "/"


def other_names(path: str) -> Iterator[str]:
    """What else a path may mean, the likelier first."""
    if len(path) > _MAX_PATH:
        return
    bare = path
    while bare.startswith("/v1/"):
        bare = bare.removeprefix("/v1")
        yield f"/v1{bare}"
        yield bare
    yield f"/v1{bare}"


def _is_there(routes: list[BaseRoute], scope: Scope, path: str) -> bool:
    asked = {"type": "http", "path": path, "root_path": "", "method": scope["method"]}
    return any(route.matches(asked)[0] is not Match.NONE for route in routes)


def _without_body(send: Send) -> Send:
    """Sends heads, and nothing behind them."""

    async def tell(message: Message) -> None:
        await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

    return tell
