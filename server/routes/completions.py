"""`POST /v1/completions`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from genai.errors import RequestError
from genai.requests.completions import CompletionRequest, completion_options, prompts_of
from genai.requests.generation import options_of
from server.body import StrictRoute
from server.errors import unless_gone
from server.generation import Work, start
from server.openapi import GENERATING, streaming
from server.replies.common import Head
from server.replies.completions import completion, completion_events
from server.schemas.completions import Completion
from server.settings import Settings
from server.state import State

if TYPE_CHECKING:
    from genai.llm.prepare import Prompt
    from genai.tokenizer.tokenizer import Tokenizer

router = APIRouter(tags=["generation"], route_class=StrictRoute)

DEFAULT_MAX_TOKENS = 16
"""OpenAI's own, for requests and settings that do not say."""


@router.post("/v1/completions", responses=GENERATING | streaming(Completion))
async def completions(body: CompletionRequest, request: Request, state: State) -> Response:
    """Continue one or several texts."""
    work = _work(body, state.settings)
    model = await state.models.get(body.model)
    head, tokenizer = Head.of(model, "cmpl"), model.llm.llm.tokenizer
    has_top = bool(body.logprobs)
    running = await start(model, work, state)
    if body.stream:
        has_usage = bool(body.stream_options and body.stream_options.include_usage)
        events = completion_events(
            head, running, tokenizer, num_choices=work.num_choices, has_top=has_top, has_usage=has_usage
        )
        return state.event_stream(events)
    results = await unless_gone(request.receive, running.results())
    firsts: list[int] = []
    if "prompt_logprobs" in work.options:
        firsts = await asyncio.to_thread(_first_tokens, work.prompts, tokenizer)
    reply = await asyncio.to_thread(completion, head, results, tokenizer, has_top=has_top, first_tokens=firsts)
    return Response(reply, media_type="application/json")


def _first_tokens(prompts: Sequence[Prompt], tokenizer: Tokenizer) -> list[int]:
    """The first token of each prompt, as it was run."""
    return [tokenizer.encode(each)[0] if isinstance(each, str) else cast(list[int], each)[0] for each in prompts]


def _work(body: CompletionRequest, settings: Settings) -> Work:
    """What to run. Raises: RequestError."""
    given = options_of(body, "completion")
    if body.stream and given.get("echo") and body.logprobs is not None:
        message = "logprobs of an echoed prompt are told with the whole answer: leave stream, echo or logprobs out"
        raise RequestError(message, code="unsupported_parameter", param="logprobs")
    defaults = {"max_new_tokens": settings.default_max_tokens or DEFAULT_MAX_TOKENS}
    return Work(prompts=prompts_of(body), options=defaults | completion_options(body, given), param="prompt")
