"""How the server is: for load balancers, Prometheus, and the playground's picture of the cache."""

from __future__ import annotations

from fastapi import APIRouter
from starlette.responses import JSONResponse, Response

from server.errors import RETRY_AFTER
from server.metrics import exposition
from server.openapi import KEYED
from server.schemas.models import Health, Readiness, ServerStatus
from server.state import State

router = APIRouter(tags=["operation"])


@router.get("/health")
async def health() -> Health:
    """The process is alive."""
    return Health()


@router.get("/ready", responses={503: {"model": Readiness, "description": "Not now: loading, draining, or failed."}})
async def ready(state: State) -> Readiness:
    """Every model has been loaded, one at least can be used, and the server is not shutting down."""
    answer = await state.overview.readiness(state)
    if answer.status == "ready":
        return answer
    return JSONResponse(answer.model_dump(), 503, headers={"retry-after": RETRY_AFTER})  # type: ignore[return-value]


_PAGE = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}, "description": "Prometheus' text format."}}


@router.get("/metrics", response_class=Response, responses=_PAGE)  # type: ignore[arg-type]
async def metrics(state: State) -> Response:
    """Metrics of HTTP and of every model."""
    return Response(exposition(await state.overview.metrics(state)), media_type="text/plain; version=0.0.4")


@router.get("/v1/status", responses=KEYED)
async def status(state: State) -> ServerStatus:
    """What is running and waiting, and how full the cache's rows are."""
    return await state.overview.status(state)
