"""`POST /v1/embeddings`, and llama.cpp's `POST /embedding`."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from genai.replies.embeddings import embeddings_reply
from genai.requests.embeddings import EmbeddingRequest
from server.body import StrictRoute
from server.models import ServedModel
from server.openapi import GENERATING, Responses
from server.reading import embed
from server.schemas.embeddings import EmbeddingList, LlamaEmbedding, LlamaEmbeddingRequest
from server.state import State

if TYPE_CHECKING:
    from genai.llm.reading import Outcome

router = APIRouter(tags=["reading"], route_class=StrictRoute)

_LIST: Responses = {200: {"model": EmbeddingList}}
_ROWS: Responses = {200: {"model": list[LlamaEmbedding]}}


@router.post("/v1/embeddings", responses=GENERATING | _LIST)
async def embeddings(body: EmbeddingRequest, request: Request, state: State) -> Response:
    """Embed one or several texts, with an embedding model."""
    model = await state.models.get(body.model)
    outcome = await embed(
        model,
        body.texts,
        request,
        state,
        param="input",
        dimensions=body.dimensions,
        prompt_name=body.prompt_name,
        truncate=bool(body.truncate),
    )
    reply = await asyncio.to_thread(_reply, outcome, model, is_base64=body.encoding_format == "base64")
    return Response(reply, media_type="application/json")


@router.post("/embedding", responses=GENERATING | _ROWS)
async def llama_embedding(body: LlamaEmbeddingRequest, request: Request, state: State) -> Response:
    """The same in llama.cpp's form."""
    model = await state.models.get(body.model)
    param = "input" if body.content is None else "content"
    outcome = await embed(model, body.texts, request, state, param=param)
    return Response(await asyncio.to_thread(_rows, outcome), media_type="application/json")


def _reply(outcome: Outcome, model: ServedModel, *, is_base64: bool) -> str:
    return json.dumps(embeddings_reply(outcome, model.asked_name, is_base64=is_base64), allow_nan=False)


def _rows(outcome: Outcome) -> str:
    rows = [{"index": index, "embedding": [vector.tolist()]} for index, vector in enumerate(outcome.values)]
    return json.dumps(rows, allow_nan=False)
