"""`/v1/models`, and what no model here can do."""

from __future__ import annotations

from fastapi import APIRouter

from server.errors import ApiError
from server.models import ServedModel
from server.openapi import KEYED, errors
from server.schemas.models import Model, ModelList
from server.state import State

router = APIRouter(tags=["models"])


@router.get("/v1/models", responses=KEYED)
async def list_models(state: State) -> ModelList:
    """The models that are served."""
    return ModelList(data=[_described(model) for model in state.models.models])


@router.get("/v1/models/{name:path}", responses=KEYED | errors(404))
async def one_model(name: str, state: State) -> Model:
    """One model."""
    return _described(state.models.named(name))


@router.post("/v1/embeddings", responses=KEYED | errors(404), status_code=404)
async def embeddings() -> None:
    """Not supported: the models here write text. (OpenAI's clients get the reason with a 404.)"""
    message = "no model here makes embeddings: they are decoders that write text"
    raise ApiError(404, message, code="unsupported_endpoint")


def _described(model: ServedModel) -> Model:
    return Model(
        id=model.name,
        created=model.created,
        state=model.state,
        max_model_len=model.llm.llm.max_seq_len if model.state == "ready" else None,
    )
