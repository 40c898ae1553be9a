"""`POST /v1/rerank`."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from fastapi import APIRouter
from starlette.requests import Request

from server.body import StrictRoute
from server.openapi import GENERATING
from server.reading import MAX_TOKENS, read
from server.schemas.rerank import ReadUsage, Reranked, RerankRequest, RerankResult, ToldDocument
from server.state import State

if TYPE_CHECKING:
    from genai.llm.reading import Asked

router = APIRouter(tags=["reading"], route_class=StrictRoute)


@router.post("/v1/rerank", responses=GENERATING, response_model_exclude_none=True)
async def rerank(body: RerankRequest, request: Request, state: State) -> Reranked:
    """Tell how well documents answer a query, with a reranker that is asked for yes or no."""
    model = await state.models.get(body.model)
    texts = body.texts

    def ask(timeout: float) -> Asked:
        return model.llm.llm.scorer.ask(
            body.query, texts, instruction=body.instruction, timeout=timeout, most_tokens=MAX_TOKENS
        )

    outcome = await read(model, ask, request, state, param="documents")
    scores = outcome.values.tolist()
    order = sorted(range(len(texts)), key=lambda index: -scores[index])[: body.top_n]
    return Reranked(
        id=f"rerank-{uuid.uuid4().hex}",
        model=model.asked_name,
        results=[
            RerankResult(
                index=index,
                relevance_score=scores[index],
                document=ToldDocument(text=texts[index]) if body.return_documents else None,
            )
            for index in order
        ],
        usage=ReadUsage(prompt_tokens=outcome.prompt_tokens, total_tokens=outcome.prompt_tokens),
    )
