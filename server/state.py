"""What the endpoints share, and how they get hold of it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, cast

from fastapi import Depends
from starlette.requests import Request

from server.errors import ApiError
from server.kept import KeptResponses
from server.lifecycle import Lifecycle
from server.metrics import HttpMetrics
from server.models import ModelPool
from server.overview import Overview
from server.settings import Settings
from server.sse import EventStream, openai_error_event
from server.unknown import UnknownFields

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """One application's parts. mark: begins the ids of what only this process has, where there are several."""

    settings: Settings
    models: ModelPool
    lifecycle: Lifecycle
    metrics: HttpMetrics
    unknown_fields: UnknownFields
    responses: KeptResponses
    overview: Overview
    tracing: TracerProvider | None = None
    mark: str = ""

    def event_stream(
        self,
        events: AsyncGenerator[bytes, None],
        error_event: Callable[[ApiError, str], bytes] = openai_error_event,
        kind: type[EventStream] = EventStream,
    ) -> EventStream:
        """An answer by events. error_event: how an error in the middle is told."""
        return kind(
            events,
            keep_alive_interval=self.settings.keep_alive_interval,
            send_timeout=self.settings.send_timeout,
            error_event=error_event,
        )


def state_of(request: Request) -> ServerState:
    """The parts of the application that a request came to."""
    return cast(ServerState, request.app.state.server)


State = Annotated[ServerState, Depends(state_of)]
"""A parameter of an endpoint that is given the application's parts."""
