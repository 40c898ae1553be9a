"""The process: uvicorn around the application, and a graceful end.

SIGTERM or Ctrl-C   new requests get 503, /ready says so; the process ends when all accepted ones have ended,
                    or after `drain_timeout`: then what still runs is cancelled and told so
SIGHUP              the same, unless it was started to ignore that (nohup)
a second one        ends at once
"""

from __future__ import annotations

import asyncio
import faulthandler
import logging
import signal
import time
from types import FrameType
from typing import cast

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from genai.errors import GenAIError
from server.app import create_app
from server.lifecycle import hangups
from server.logs import configure_logging
from server.models import ModelPool
from server.settings import Settings
from server.state import ServerState

_log = logging.getLogger(__name__)

_LAST_WORDS_SECONDS = 5
"""How long connections have to take the ends of their answers once the server stops."""


def run(settings: Settings) -> None:
    """Serve until a signal comes. Raises: GenAIError if no model can be served, or the port cannot be had."""
    configure_logging(settings.log_format, settings.log_level)
    models = ModelPool(settings)
    server = DrainingServer(settings, models)
    faulthandler.enable()  # what kills the process, such as a mapped file that was cut, leaves a word on standard error
    for number in hangups():  # uvicorn handles the others
        signal.signal(number, server.handle_exit)
    try:
        server.run()
    except SystemExit:  # how uvicorn says that it cannot listen; the log has the reason
        raise GenAIError(f"{settings.host}:{settings.port} cannot be listened on: see the log") from None
    if not models.ready and any(model.state == "failed" for model in models.models):
        raise GenAIError("; ".join(f"{model.name}: {model.error}" for model in models.models))


class DrainingServer(uvicorn.Server):
    """uvicorn, which closes its doors only after those inside have been served."""

    def __init__(self, settings: Settings, models: ModelPool) -> None:
        self._timeout = settings.body_timeout
        self._silent_since: dict[tuple[H11Protocol, int], float] = {}
        application = create_app(settings, models)
        self.state = cast(ServerState, application.state.server)
        super().__init__(
            uvicorn.Config(
                application,
                host=settings.host,
                port=settings.port,
                loop="asyncio",  # uvicorn would take another one that some extra has brought
                http=H11Protocol,
                ws="none",
                lifespan="on",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_LAST_WORDS_SECONDS,
            )
        )
        self.state.lifecycle.count_connections = lambda: len(self.server_state.connections)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """On a signal: the first one drains, the second one ends."""
        if self.state.lifecycle.is_draining:
            self.force_exit = self.should_exit = True
        self.state.lifecycle.drain()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: is it time to end?"""
        state = self.state
        if state.lifecycle.is_overdue:
            _log.warning("%d requests are cut off: drain_timeout is over", state.lifecycle.num_active)
            await asyncio.to_thread(state.models.close)
            self.should_exit = True
        elif state.lifecycle.is_over or state.models.has_failed:
            self.should_exit = True
        self._close_silent_connections(time.monotonic())
        return await super().on_tick(counter)

    def _close_silent_connections(self, now: float) -> None:
        """Close connections on which no request has begun for `body_timeout` seconds: each takes one of those allowed.

        uvicorn itself waits for a first request without end, and for the rest of a later one's head.
        """
        silent: dict[tuple[H11Protocol, int], float] = {}
        for connection in self.server_state.connections:
            if isinstance(connection, H11Protocol) and (connection.cycle is None or connection.cycle.response_complete):
                key = (connection, id(connection.cycle))  # a request makes a new cycle
                silent[key] = self._silent_since.get(key, now)
                if now - silent[key] >= self._timeout:
                    connection.transport.close()
        self._silent_since = silent
