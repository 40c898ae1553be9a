"""The application: middleware around routes.

    request ─► id, log, metrics ─► path ─► trace ─► CORS ─► connections ─► host name ─► keys ─► draining?
            ─► requests per key ─► body ─► route

`create_app` builds it; `app` builds it from the environment when it is first called, for `uvicorn server.app:app`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import cast

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from genai.errors import ConfigError, GenAIError
from genai.requests.base import invalid
from server.auth import ADMIN_KEYS_VARIABLE, ApiKeys, administered, authenticated, load_api_keys
from server.errors import ApiError, api_error, error_response
from server.kept import KeptResponses
from server.lifecycle import Lifecycle
from server.limits import GateMiddleware, KeyLimit, allowed_hosts, connection_limit, known_host
from server.logs import RequestMiddleware
from server.metrics import HttpMetrics
from server.models import ModelPool
from server.openapi import describe
from server.overview import Alone, Overview
from server.paths import PathMiddleware
from server.receiving import BodyLimits, BodyMiddleware
from server.routes import (
    adapters,
    chat,
    completions,
    embeddings,
    health,
    llama_cpp,
    messages,
    ollama,
    pages,
    rerank,
    responses,
    tokenize,
)
from server.routes import models as model_routes
from server.settings import Settings, load_settings
from server.state import ServerState
from server.tracing import TracingMiddleware, tracer_provider
from server.unknown import IGNORED_HEADER, UnknownFields

_log = logging.getLogger(__name__)

_IS_OFF = "this needs an administrator's key, and the server has none: GENAI_ADMIN_KEYS, admin_keys_file"
_IS_OFF_IN_REPLICAS = "replicas serve the models and adapters of their settings: change those, and deploy them anew"
ROUTERS = (
    chat.router,
    completions.router,
    responses.router,
    messages.router,
    embeddings.router,
    rerank.router,
    tokenize.router,
    llama_cpp.router,
    ollama.router,
    adapters.router,
    model_routes.router,
    health.router,
    pages.router,
)


def create_app(
    settings: Settings | None = None,
    models: ModelPool | None = None,
    *,
    overview: Overview | None = None,
    mark: str = "",
) -> FastAPI:
    """The application; settings: None for those of the environment; models: what it serves, if not the settings'.

    overview: who tells how the server is, if that is not this process alone; mark: begins the ids of what only it has.

    Raises: ConfigError.
    """
    settings = settings or load_settings()
    tracing = tracer_provider(settings.otlp_endpoint) if settings.otlp_endpoint else None
    models = models or ModelPool(settings)
    if not models.models:
        raise ConfigError("no model to serve: name one after `genai serve`, or in the settings under [models]")
    keys = load_api_keys(settings.api_keys_file)
    admins = load_api_keys(settings.admin_keys_file, ADMIN_KEYS_VARIABLE)
    _warn(settings, keys)
    state = ServerState(
        settings=settings,
        models=models,
        lifecycle=Lifecycle(settings.drain_timeout),
        metrics=HttpMetrics(),
        unknown_fields=UnknownFields(settings.unknown_fields),
        responses=KeptResponses(settings.kept_responses_bytes, settings.kept_responses_seconds),
        overview=overview or Alone(),
        tracing=tracing,
        mark=mark,
    )
    app = FastAPI(
        title="genai",
        summary="OpenAI's API over ONNX decoder models in this process",
        version="1",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=_lifespan,
        middleware=_middleware(state, keys, admins),
        exception_handlers=dict.fromkeys((ApiError, GenAIError, RequestValidationError, HTTPException), _on_error),
    )
    app.state.server = state
    app.openapi = lambda: describe(app)  # type: ignore[method-assign]
    for router in ROUTERS:
        app.include_router(router)
    return app


class LazyApp:
    """The application of the environment's settings, built when it is first called: importing it does nothing."""

    def __init__(self) -> None:
        self._app: FastAPI | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection, or the application's life."""
        if self._app is None:
            self._app = create_app()
        await self._app(scope, receive, send)


app = LazyApp()


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    state = cast(ServerState, app.state.server)
    state.models.start()
    try:
        yield
    finally:
        await asyncio.to_thread(state.models.close)
        if state.tracing:
            await asyncio.to_thread(state.tracing.shutdown)


def _middleware(state: ServerState, keys: ApiKeys, admins: ApiKeys) -> list[Middleware]:
    """From the outermost to the innermost."""
    settings = state.settings
    is_off = _IS_OFF_IN_REPLICAS if state.mark else _IS_OFF
    hosts = allowed_hosts(settings.allowed_hosts, is_on_loopback=settings.is_on_loopback, has_keys=bool(len(keys)))
    return [
        Middleware(RequestMiddleware, state.metrics),
        Middleware(PathMiddleware),
        *([Middleware(TracingMiddleware, state.tracing)] if state.tracing else ()),
        Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=["x-request-id", "retry-after", IGNORED_HEADER],
        ),
        Middleware(
            GateMiddleware,
            partial(connection_limit, settings.max_connections, state.lifecycle),
            partial(known_host, hosts),
            partial(authenticated, keys + admins if len(keys) else keys, settings.open_paths),
            partial(administered, admins, (*model_routes.ADMIN_PATHS, *adapters.ADMIN_PATHS), is_off),
            state.lifecycle.counted,
            KeyLimit(settings.max_concurrent_per_key),
        ),
        Middleware(
            BodyMiddleware,
            BodyLimits(
                max_bytes=settings.max_body_bytes,
                max_bytes_together=settings.max_bodies_bytes,
                timeout=settings.body_timeout,
            ),
        ),
    ]


def _warn(settings: Settings, keys: ApiKeys) -> None:
    if not len(keys) and not settings.is_on_loopback:
        _log.warning(
            "anyone who reaches %s:%d may use this server: set GENAI_API_KEYS, or api_keys_file",
            settings.host,
            settings.port,
        )


async def _on_error(request: Request, error: Exception) -> Response:
    """The answer to what was raised, by an endpoint or by the router itself: a path or a method that is not there."""
    if isinstance(error, RequestValidationError):
        error = invalid(error.errors(), error.body)
    elif isinstance(error, HTTPException):
        code = {404: "unknown_url", 405: "unknown_method"}.get(error.status_code, "invalid_value")
        message = f"{request.method} {request.url.path[:200]}: {error.detail}"
        error = ApiError(error.status_code, message, code=code, headers=error.headers)
    return error_response(api_error(error), request.url.path)
