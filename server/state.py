"""What the endpoints share, and how they get hold of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, cast

from fastapi import Depends
from starlette.requests import Request

from server.lifecycle import Lifecycle
from server.metrics import HttpMetrics
from server.models import ModelPool
from server.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerState:
    """One application's parts."""

    settings: Settings
    models: ModelPool
    lifecycle: Lifecycle
    metrics: HttpMetrics


def _state(request: Request) -> ServerState:
    return cast(ServerState, request.app.state.server)


State = Annotated[ServerState, Depends(_state)]
"""A parameter of an endpoint that is given the application's parts."""
