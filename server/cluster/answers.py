"""An answer on its way from a replica to its client: what Ray adds to it is taken off, what it lacks is added."""

from __future__ import annotations

from starlette.types import Message, Receive, Scope, Send

from server.errors import ApiError, send_error
from server.replies.messages import message_error_event
from server.replies.ollama import ollama_error_line
from server.replies.responses import response_error_event
from server.routes import messages, ollama  # noqa: F401  # which say in what shape their clients expect errors
from server.sse import EventStream, LineStream, openai_error_event

_EVENTS = {"/v1/messages": message_error_event, "/v1/responses": response_error_event}
_ID = b"x-request-id"


class MendedAnswer:
    """Passes an answer on.

    A replica gives each of its answers an id, and Ray adds the same once more: so an answer with one id is Ray's own,
    and tells that no replica had the request, or that the one that had it is gone.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._content_type = b""
        self._is_begun = self._is_over = self._is_replaced = False

    async def send(self, message: Message) -> None:
        """Take a message of the answer."""
        if self._is_replaced:
            return
        if message["type"] == "http.response.start":
            ids = [value for name, value in message["headers"] if name.lower() == _ID]
            if len(ids) < 2 and message["status"] >= 400:
                self._is_replaced = self._is_over = True
                await self._refuse(_meant(message["status"]), ids)
                return
            others = [(name, value) for name, value in message["headers"] if name.lower() != _ID]
            self._content_type = dict(others).get(b"content-type", b"")
            message = {**message, "headers": [*others, *((_ID, value) for value in ids[:1])]}
            self._is_begun = True
        elif message["type"] == "http.response.body":
            self._is_over = not message.get("more_body", False)
        await self._send(message)

    async def end(self) -> None:
        """The replica has no more to say: an answer that is not over by now has lost it."""
        if self._is_over or self._is_replaced:
            return
        if not self._is_begun:
            await self._refuse(_lost(), [])
        elif (event := self._event(_lost())) is not None:
            await self._send({"type": "http.response.body", "body": event, "more_body": False})

    async def _refuse(self, error: ApiError, ids: list[bytes]) -> None:
        error.headers |= {_ID.decode(): value.decode("latin-1") for value in ids[:1]}
        await send_error(error, {**self._scope, "path": self._path}, self._receive, self._send)

    def _event(self, error: ApiError) -> bytes | None:
        """How a stream tells an error; None for an answer that is no stream, which shows by its length."""
        if self._content_type == LineStream.content_type.encode():
            return ollama_error_line(error, self._path)
        if self._content_type != EventStream.content_type.encode():
            return None
        return _EVENTS.get(self._path, openai_error_event)(error, self._path)

    @property
    def _path(self) -> str:
        """The path as the client's dialect is known by: without the application's route, and by its own name."""
        path = str(self._scope["path"])
        bare = "/" + path.split("/", 2)[2] if path.startswith("/~") and path.count("/") > 1 else path
        bare = bare.rstrip("/")
        while bare.startswith("/v1/"):
            bare = bare.removeprefix("/v1")
        return bare if bare.startswith("/api/") else f"/v1{bare}"


def _lost() -> ApiError:
    message = "the replica that was answering is gone; send the request again"
    return ApiError(503, message, code="replica_lost")


def _meant(status: int) -> ApiError:
    """What Ray means by a status of its own."""
    if status == 500:
        return _lost()
    if status == 408:
        return ApiError(503, "the answer took longer than request_timeout", code="deadline_exceeded")
    return ApiError(503, "no replica takes this request now", code="no_replica")
