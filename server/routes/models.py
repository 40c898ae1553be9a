"""`/v1/models`: what is served, and for administrators what comes and goes."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from genai.models.catalog import known_models
from genai.models.hub import HubId
from server.body import StrictRoute
from server.context import request_info
from server.errors import ApiError, unless_gone
from server.openapi import GENERATING, KEYED, errors, streaming
from server.pulling import Pull
from server.replies.models import described
from server.schemas.models import Model, ModelList, ModelName, NamedModel, PullProgress, PullRequest
from server.settings import ModelSettings
from server.sse import event
from server.state import ServerState, State

router = APIRouter(tags=["models"], route_class=StrictRoute)

LOAD, UNLOAD, PULL = "/v1/models/load", "/v1/models/unload", "/v1/models/pull"
ADMIN_PATHS = (LOAD, UNLOAD, PULL)
"""What only administrators may do."""


@router.get("/v1/models", responses=KEYED)
async def list_models(state: State) -> ModelList:
    """The models that are served."""
    models = await state.overview.models(state)
    return ModelList(
        data=list(models),
        models=[ModelName(name=model.id, model=model.id) for model in models],
        first_id=models[0].id,
        last_id=models[-1].id,
    )


@router.get("/v1/models/{name:path}", responses=KEYED | errors(404))
async def one_model(name: str, state: State) -> Model:
    """One model, by any of its names."""
    model = state.models.named(name)
    return described(model, request_info().adapter)


@router.post(LOAD, responses=GENERATING)
async def load_model(body: NamedModel, state: State) -> Model:
    """Load a model now; the answer comes when it is ready. For administrators."""
    model = await state.models.load(body.model)
    if model.state != "ready":
        raise ApiError(503, f"{model.name} could not be loaded: {model.error}", code="model_failed", param="model")
    return described(model)


@router.post(UNLOAD, responses=GENERATING | errors(409))
async def unload_model(body: NamedModel, state: State) -> Model:
    """Free a model's memory; the next request loads it again. Refused while requests use it. For administrators."""
    return described(await state.models.unload(body.model))


@router.post(PULL, responses=GENERATING | errors(409) | streaming(PullProgress, "events, the last one `success`."))
async def pull_model(body: PullRequest, request: Request, state: State) -> Response:
    """Bring a model here, build it, and serve it from now on; it is loaded when it is first asked for."""
    if body.model not in known_models() and HubId.parse(body.model) is None:
        message = f"model={body.model!r}: must be a known name ({', '.join(known_models())}), or a hub id"
        raise ApiError(400, message, code="invalid_value", param="model")
    pull = Pull(ModelSettings(source=body.model, precision=body.precision), state)
    state.models.check_free(body.name or body.model, pull.settings)
    if body.stream is not False:
        return state.event_stream(_told(pull, body, state))
    await unless_gone(request.receive, _to_the_end(pull))
    return Response(_pulled(body, pull, state).model_dump_json(), media_type="application/json")


async def _to_the_end(pull: Pull) -> None:
    async with aclosing(pull.steps()) as steps:
        async for _ in steps:
            pass


async def _told(pull: Pull, body: PullRequest, state: ServerState) -> AsyncGenerator[bytes, None]:
    async with aclosing(pull.steps()) as steps:
        async for label, done, total in steps:
            yield event(PullProgress(status=label, completed=done, total=total).model_dump_json())
    yield event(_pulled(body, pull, state).model_dump_json(exclude_none=True))


def _pulled(body: PullRequest, pull: Pull, state: ServerState) -> PullProgress:
    state.models.add(body.name or body.model, pull.settings)
    return PullProgress(status="success")
