"""What stands in Ray's proxies before everything else: it says where requests belong, and mends what Ray answers.

    request ─► headers that Ray would obey: dropped ─► beginning of the body ─► application and key ─► Ray ─► replica
    answer  ◄─ one X-Request-ID; Ray's own errors in our words; an error event where a stream breaks off  ◄───┘

Ray builds it by `RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=server.cluster.door.callback`, in its own processes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
from collections.abc import Sequence

from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.cluster.answers import MendedAnswer
from server.cluster.directory import Directory, Entry, with_model
from server.cluster.keys import MAX_LOOK, PINNED, Asked, asked, session_of
from server.cluster.placement import hashed
from server.context import is_request_id
from server.errors import RETRY_AFTER

_log = logging.getLogger(__name__)

_OBEYED = {"x-request-timeout-seconds", "x-request-disconnect-disabled", "serve-multiplexed-model-id", "x-session-id"}
"""Headers that Ray does what they say, whoever sends them."""
_LOOK_SECONDS = 5.0
"""How long a body's beginning is waited for."""
_READY_SECONDS = 5.0
"""How long a replica may take to say how the server is."""
_MAX_BODY = 64 << 20
"""Bytes that are read to find the model's name, where there are several models."""
_RESPONSE_ID = re.compile(r"resp_([a-z0-9]+?)([0-9a-f]{4})_")


def callback() -> list[Middleware]:
    """For Ray."""
    from server.cluster.registry import read_entries

    return [Middleware(Door, Directory(read_entries))]


class Door:
    """The middleware. Requests to applications that are not ours go through as they are."""

    def __init__(self, app: ASGIApp, directory: Directory) -> None:
        self._app = app
        self._directory = directory

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        entries = await self._directory.entries() if scope["type"] == "http" else ()
        if not any(_is_below(scope["path"], entry.route) for entry in entries) or scope["path"].startswith("/-/"):
            await self._app(scope, receive, send)
        elif scope["path"] == "/health":
            await JSONResponse({"status": "ok"})(scope, receive, send)
        elif scope["path"] == "/ready":
            await self._ready(scope, receive, send)
        else:
            looked = Looked(receive)
            await self._pass(await _routed(scope, looked, entries), looked, send)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = MendedAnswer(scope, receive, send)
        try:
            await self._app(scope, receive, answer.send)
        except Exception as error:
            _log.warning("the proxy failed: %s", error)
        await answer.end()

    async def _ready(self, scope: Scope, receive: Receive, send: Send) -> None:
        """As a replica says; where none says anything, the server is not ready."""
        try:
            async with asyncio.timeout(_READY_SECONDS):
                await self._pass(_with_headers(scope, ""), receive, send)
        except TimeoutError:
            told = JSONResponse({"status": "loading", "models": {}}, 503, {"retry-after": RETRY_AFTER})
            await told(scope, receive, send)


def _is_below(path: str, route: str) -> bool:
    return f"{path}/".startswith(f"{route.rstrip('/')}/")


class Looked:
    """`receive` of a request whose body's beginning is looked at before it is passed on, unchanged."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._taken: list[Message] = []
        self.is_whole = False

    async def __call__(self) -> Message:
        """The next message."""
        return self._taken.pop(0) if self._taken else await self._receive()

    async def look(self, num_bytes: int) -> bytes:
        """So much of the body as a few seconds bring, at least `num_bytes` if it is that long."""
        try:
            async with asyncio.timeout(_LOOK_SECONDS):
                while not self.is_whole and sum(len(each.get("body", b"")) for each in self._taken) < num_bytes:
                    message = await self._receive()
                    self._taken.append(message)
                    self.is_whole = message["type"] != "http.request" or not message.get("more_body", False)
        except TimeoutError:
            pass
        return b"".join(message.get("body", b"") for message in self._taken)


async def _routed(scope: Scope, body: Looked, entries: Sequence[Entry]) -> Scope:
    """A request's scope with the path of its application, and its key as the session id that Ray routes by."""
    told = Asked()
    if scope["method"] == "POST":
        told = asked(await body.look(MAX_LOOK), is_whole=body.is_whole)
        if told.model is None and len(entries) > 1 and not body.is_whole:
            whole = await body.look(_MAX_BODY)
            told = await asyncio.to_thread(asked, whole, is_whole=body.is_whole)
    path = str(scope["path"])
    if (named := re.match(r"(?:/v1)*/models/(.+)", path)) and scope["method"] == "GET":
        told = Asked(model=named[1])
    holder = _RESPONSE_ID.match(told.previous or path.rpartition("/responses/")[2])
    entry = with_model(entries, told.model)
    if holder:
        entry = next((entry for entry in entries if entry.mark == holder[2]), entry)
        session = f"{PINNED}{holder[1]}"
    else:
        key = session_of(scope["headers"]) or told.key
        session = f"{hashed(json.dumps([told.model, key])):016x}" if key else ""
    if entry is not None and not _is_below(path, entry.route):
        path = entry.route + path
    return _with_headers({**scope, "path": path, "raw_path": path.encode()}, session)


def _with_headers(scope: Scope, session: str) -> Scope:
    """Without what Ray would obey, with a session id of ours."""
    headers = [(name, value) for name, value in scope["headers"] if _may_pass(name, value)]
    return {**scope, "headers": [*headers, *([(b"x-session-id", session.encode())] if session else ())]}


def _may_pass(name: bytes, value: bytes) -> bool:
    plain = name.decode("latin-1").lower().replace("_", "-")
    return plain not in _OBEYED and (plain != "x-request-id" or is_request_id(value.decode("latin-1")))
