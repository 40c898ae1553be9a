"""`POST /v1/chat/completions`."""

from __future__ import annotations

import asyncio

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from genai.errors import RequestError
from genai.requests.chat import ChatRequest, chat_arguments, chat_options
from genai.requests.generation import options_of
from genai.requests.messages import template_messages
from server.body import StrictRoute
from server.errors import unless_gone
from server.generation import Work, start
from server.openapi import GENERATING, streaming
from server.replies.chat import chat_completion, chat_events
from server.replies.common import Head
from server.schemas.chat import ChatCompletion
from server.settings import Settings
from server.state import State

router = APIRouter(tags=["generation"], route_class=StrictRoute)


@router.post("/v1/chat/completions", responses=GENERATING | streaming(ChatCompletion))
async def chat_completions(body: ChatRequest, request: Request, state: State) -> Response:
    """Answer a conversation."""
    work = chat_work(body, state.settings)
    model = await state.models.get(body.model)
    head, tokenizer = Head.of(model, "chatcmpl"), model.llm.llm.tokenizer
    running = await start(model, work, state)
    if body.stream:
        has_usage = bool(body.stream_options and body.stream_options.include_usage)
        return state.event_stream(chat_events(head, running, tokenizer, has_usage=has_usage))
    (result,) = await unless_gone(request.receive, running.results())
    reply = await asyncio.to_thread(chat_completion, head, result, tokenizer)  # log probabilities may be many
    return Response(reply, media_type="application/json")


def chat_work(body: ChatRequest, settings: Settings) -> Work:
    """What to run. Raises: RequestError."""
    given = options_of(body, "chat")
    if given.get("top_logprobs") and not body.logprobs:
        message = "top_logprobs needs logprobs=true"
        raise RequestError(message, code="invalid_value", param="top_logprobs")
    defaults = {"max_new_tokens": settings.default_max_tokens, "logprobs": False, "top_logprobs": 0}
    return Work(
        prompts=[template_messages(body.messages, refuses_media=settings.media == "refuse")],
        options=defaults | chat_options(body, given),
        param="messages",
        chat=chat_arguments(body),
    )
