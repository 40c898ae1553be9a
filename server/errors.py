"""Errors as HTTP: one table from exceptions to statuses, one place where their JSON is written.

    {"error": {"message": "…", "type": "invalid_request_error", "param": "messages[0].role", "code": "invalid_value"}}

A path whose clients expect another form has it in `SHAPES`.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from genai.errors import (
    CapacityError,
    ConfigError,
    DeadlineError,
    GenAIError,
    ModelNotFoundError,
    NotFiniteError,
    QueueFullError,
    RequestError,
    TaskError,
    TokenizerError,
)
from server.context import request_info

_log = logging.getLogger(__name__)

RETRY_AFTER = "2"
"""Seconds after which who was refused may try again; OpenAI's clients do by themselves."""


class ApiError(Exception):
    """An error as the client is told it.

    param: the field at fault; code: a short name; closes: whether the connection cannot be used further (a body that
    was not read); cause: what it tells of. Who comes at a bad moment (429, 503) is told to try again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        closes: bool = False,
        headers: Mapping[str, str] | None = None,
        cause: Exception | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.cause = cause
        self.headers = dict(headers or {})
        if status in (429, 503):
            self.headers["retry-after"] = RETRY_AFTER
        if closes:
            self.headers["connection"] = "close"

    @property
    def type(self) -> str:
        """The kind of error, in OpenAI's words."""
        kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        return kinds.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")


class ClientGoneError(Exception):
    """The client has hung up: there is nobody to answer."""


T = TypeVar("T")


async def unless_gone(receive: Receive, work: Awaitable[T]) -> T:
    """The outcome of work that is broken off when the client hangs up; the request's body has been read.

    Raises: ClientGoneError, and what the work raises.
    """
    working, leaving = asyncio.ensure_future(work), asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientGoneError
        return working.result()
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


_TABLE: tuple[tuple[type[GenAIError], int, str], ...] = (
    (TaskError, 404, "unsupported_endpoint"),
    (CapacityError, 400, "context_length_exceeded"),
    (ConfigError, 400, "invalid_value"),
    (TokenizerError, 400, "invalid_value"),
    (QueueFullError, 429, "queue_full"),
    (DeadlineError, 503, "deadline_exceeded"),
    (ModelNotFoundError, 404, "model_not_found"),
    (NotFiniteError, 500, "not_finite"),
)


def api_error(error: Exception, *, param: str | None = None) -> ApiError:
    """How any exception is told. What nobody foresaw is logged here, and told without details."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, RequestError):
        return ApiError(400, str(error), code=error.code, param=error.param)
    for kind, status, code in _TABLE:
        if isinstance(error, kind):
            return ApiError(status, str(error), code=code, param=param, cause=error)
    known = isinstance(error, GenAIError)
    _log.error("a request failed: %s", error, exc_info=None if known else error)
    message = "the model failed while it ran this request" if known else "the server failed"
    return ApiError(500, f"{message}; its log says more under request {request_info().id}", code="internal_error")


def openai_shape(error: ApiError) -> dict[str, object]:
    """An error as OpenAI's clients expect it."""
    return {"error": {"message": error.message, "type": error.type, "param": error.param, "code": error.code}}


Shape = Callable[[ApiError], dict[str, object]]
SHAPES: dict[str, Shape] = {}
"""Other shapes, by path."""


def error_json(error: ApiError, path: str) -> bytes:
    """An error's body, in the shape that the path's clients expect."""
    return json.dumps(SHAPES.get(path, openai_shape)(error), ensure_ascii=False).encode()


def error_response(error: ApiError, path: str) -> Response:
    """The answer that tells an error."""
    request_info().error = error.code or error.type
    return Response(error_json(error, path), error.status, error.headers, "application/json")


async def send_error(error: ApiError, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer a request with an error."""
    await error_response(error, scope["path"])(scope, receive, send)
