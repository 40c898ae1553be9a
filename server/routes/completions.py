"""`POST /v1/completions`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from server.body import StrictRoute
from server.errors import ApiError
from server.generation import Work, check_stream_options, finished, options_of, start, unless_gone
from server.openapi import GENERATING, streaming
from server.replies.common import Head
from server.replies.completions import completion, completion_events
from server.schemas.completions import Completion, CompletionRequest
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
    check_stream_options(body)
    work = Work(prompts=prompts_of(body), options=_options(body, state.settings), param="prompt")
    model = await state.models.get(body.model)
    head, tokenizer = Head.of(model, "cmpl"), model.llm.llm.tokenizer
    has_top = bool(body.logprobs)
    if body.stream:
        has_usage = bool(body.stream_options and body.stream_options.include_usage)
        running = await start(model, work, state)
        events = completion_events(
            head, running, tokenizer, num_choices=body.n or 1, has_top=has_top, has_usage=has_usage
        )
        return state.event_stream(events)
    results = await unless_gone(request, finished(model, work, state))
    firsts: list[int] = []
    if body.echo and body.logprobs is not None:
        firsts = await asyncio.to_thread(_first_tokens, work.prompts, tokenizer)
    reply = await asyncio.to_thread(completion, head, results, tokenizer, has_top=has_top, first_tokens=firsts)
    return Response(reply, media_type="application/json")


def prompts_of(body: CompletionRequest) -> list[Prompt]:
    """The prompts, one by one."""
    prompt = body.prompt
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt[0], int):
        return [[token for token in prompt if isinstance(token, int)]]
    return [each for each in prompt if isinstance(each, str | list)]


def _first_tokens(prompts: Sequence[Prompt], tokenizer: Tokenizer) -> list[int]:
    """The first token of each prompt, as it was run."""
    return [tokenizer.encode(each)[0] if isinstance(each, str) else cast(list[int], each)[0] for each in prompts]


def _options(body: CompletionRequest, settings: Settings) -> dict[str, object]:
    if body.best_of is not None and body.best_of != (body.n or 1):
        message = f"best_of={body.best_of}: must equal n; texts are not compared here"
        raise ApiError(400, message, code="unsupported_parameter", param="best_of")
    if body.stream and body.echo and body.logprobs is not None:
        message = "logprobs of an echoed prompt are told with the whole answer: leave stream, echo or logprobs out"
        raise ApiError(400, message, code="unsupported_parameter", param="logprobs")
    options = options_of(body)
    limit = settings.default_max_tokens or DEFAULT_MAX_TOKENS
    options["max_new_tokens"] = limit if body.max_tokens is None else body.max_tokens
    if body.logprobs is not None:
        options |= {"logprobs": True, "top_logprobs": body.logprobs}
    if body.echo:
        options["echo"] = True
        if body.logprobs is not None:
            options["prompt_logprobs"] = body.logprobs
    return options
