"""How the server is, told by whoever knows all of it: this process alone, or several replicas together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from prometheus_client.metrics_core import Metric

from server.metrics import collected
from server.replies.models import described
from server.schemas.models import Model, Readiness, ServerStatus
from server.status import readiness, server_status

if TYPE_CHECKING:
    from server.state import ServerState


class Overview(Protocol):
    """What is told of the server as a whole. state: the parts of the process that is asked."""

    async def readiness(self, state: ServerState) -> Readiness:
        """Whether requests are answered."""

    async def status(self, state: ServerState) -> ServerStatus:
        """What is running and waiting."""

    async def metrics(self, state: ServerState) -> Sequence[Metric]:
        """What is counted."""

    async def models(self, state: ServerState) -> Sequence[Model]:
        """What is served."""


class Alone:
    """A server that is this process."""

    async def readiness(self, state: ServerState) -> Readiness:
        """Whether requests are answered."""
        return Readiness(status=readiness(state), models={model.name: model.state for model in state.models.models})

    async def status(self, state: ServerState) -> ServerStatus:
        """What is running and waiting."""
        return server_status(state)

    async def metrics(self, state: ServerState) -> Sequence[Metric]:
        """What is counted."""
        return collected([state.metrics.registry, *(model.llm.llm.metrics.registry for model in state.models.ready)])

    async def models(self, state: ServerState) -> Sequence[Model]:
        """What is served."""
        models = state.models.models
        return [described(model, name) for model in models for name in (None, *model.adapters)]
