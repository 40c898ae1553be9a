"""The log: one line a record, JSON or for people, with the id of the request; and one line for each request.

Prompts, texts and keys are never logged.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Literal
from urllib.parse import quote

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.context import RequestInfo, current_request, request_context
from server.errors import ClientGoneError, api_error, send_error
from server.metrics import HttpMetrics

_access = logging.getLogger("server.access")


def configure_logging(style: Literal["console", "json"], level: str) -> None:
    """Send everything that is logged in this process to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if style == "json" else ConsoleFormatter())
    logging.basicConfig(handlers=[handler], level=level.upper(), force=True)
    if level == "info":  # ONNX Runtime is as loud as this one, and writes a hundred lines for each session
        logging.getLogger("genai.runtime.session").setLevel(logging.WARNING)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "uvicorn.asgi"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [], True


class JsonFormatter(logging.Formatter):
    """A record as a JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        entry: dict[str, object] = {
            "time": _timestamp(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            entry["exception"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False, default=str)


class ConsoleFormatter(logging.Formatter):
    """A record as a line for people."""

    def format(self, record: logging.LogRecord) -> str:
        """One line, and a traceback below it if there is one."""
        fields = " ".join(f"{name}={value}" for name, value in _fields(record).items())
        message = record.getMessage().replace("\n", "\\n").replace("\r", "\\r")
        line = f"{_timestamp(record)} {record.levelname.lower():7} {message}" + (f"  {fields}" if fields else "")
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _timestamp(record: logging.LogRecord) -> str:
    seconds = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{seconds}.{int(record.msecs):03d}Z"


def _fields(record: logging.LogRecord) -> dict[str, object]:
    """What a record says beside its message."""
    request = current_request()
    fields: dict[str, object] = {"request_id": request.id} if request else {}
    return fields | dict(getattr(record, "fields", {}))


class RequestMiddleware:
    """The outermost layer: gives a request its id, counts and logs it, and answers what nobody has caught."""

    def __init__(self, app: ASGIApp, metrics: HttpMetrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        with request_context(Headers(scope=scope).get("x-request-id", "")) as info, self._metrics.in_progress():
            await self._serve(scope, receive, send, info)

    async def _serve(self, scope: Scope, receive: Receive, send: Send, info: RequestInfo) -> None:
        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                info.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (b"x-request-id", info.id.encode())]
            await send(message)

        try:
            await self._app(scope, receive, tell)
        except ClientGoneError:
            info.error = "client_gone"
        except Exception as error:
            problem = api_error(error)
            if info.status is None:
                await send_error(problem, scope, receive, tell)
            info.error = problem.code
        finally:
            _report(scope, info, self._metrics)


def _report(scope: Scope, info: RequestInfo, metrics: HttpMetrics) -> None:
    status = info.status or 499  # as nginx writes it: the client left before there was an answer
    route = getattr(scope.get("route"), "path", None) or "other"
    metrics.saw_request(scope["method"], route, status, info.seconds)
    fields: dict[str, object] = {
        "status": status,
        "seconds": round(info.seconds, 4),
        "client": (scope.get("client") or ("",))[0],
        "model": info.model,
        "key": info.key,
        "prompt_tokens": info.prompt_tokens,
        "completion_tokens": info.completion_tokens,
        "error": info.error,
    }
    path = quote(scope["path"][:200], safe="/:@-._~")
    given = {name: value for name, value in fields.items() if value not in (None, "")}
    _access.info("%s %s", quote(scope["method"][:20]), path, extra={"fields": given})
