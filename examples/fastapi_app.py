"""Streaming in a FastAPI application of one's own, on `AsyncLLM`.

    python examples/fastapi_app.py smollm2-135m-instruct
    curl -N http://127.0.0.1:8080/tell -H 'content-type: application/json' -d '{"about": "the sea"}'

Requests that come at the same time run in one batch. A reader who leaves ends the text, and its row is free at once.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn
from fastapi import FastAPI, HTTPException
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, Field

import genai
from genai.errors import CapacityError, QueueFullError


class Wish(BaseModel):
    """What is asked of the application."""

    about: str = Field(min_length=1, max_length=500)
    max_tokens: int = Field(200, ge=1, le=1000)
    seed: int | None = Field(None, ge=0)


def create_app(model: str) -> FastAPI:
    """The application over one model, which is loaded when it starts and closed when it ends."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        with genai.load(model) as llm:
            app.state.model = genai.AsyncLLM(llm)
            yield
            await app.state.model.drain(30)
            app.state.model.close()

    app = FastAPI(lifespan=lifespan)

    @app.post("/tell")
    async def tell(wish: Wish) -> StreamingResponse:
        chat = [{"role": "user", "content": f"Tell me about {wish.about}."}]
        try:
            options = {"max_new_tokens": wish.max_tokens, "temperature": 0.7, "seed": wish.seed}
            stream = await app.state.model.submit(chat, **options)
        except QueueFullError as error:
            raise HTTPException(429, str(error)) from error
        except CapacityError as error:
            raise HTTPException(413, str(error)) from error

        async def pieces() -> AsyncIterator[str]:
            try:
                async for chunk in stream:
                    yield chunk.text
            finally:
                stream.cancel()  # the reader may have left

        return StreamingResponse(pieces(), media_type="text/plain; charset=utf-8")

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(*sys.argv[1:2] or ["smollm2-135m-instruct"]), port=8080)
