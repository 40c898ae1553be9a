"""From a validated request to what is read for it: scores and embeddings, whole."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from starlette.requests import Request

from genai.errors import ConfigError, QueueFullError, TaskError, TokenizerError
from server.context import request_info
from server.errors import api_error, unless_gone
from server.lifecycle import draining
from server.state import ServerState

if TYPE_CHECKING:
    from genai.llm.embedding import Texts
    from genai.llm.reading import Asked, Outcome
    from server.models import ServedModel

MAX_TOKENS = 1_000_000
"""Of all prompts of a request: a reranker's have the query in each, so that a short request may ask for very many."""
_OPTIONS = frozenset({"dimensions", "prompt_name", "query"})


async def read(
    model: ServedModel, ask: Callable[[float], Asked], request: Request, state: ServerState, *, param: str
) -> Outcome:
    """What a model reads; it ends when the client hangs up.

    ask: called on another thread with the seconds that are left; param: the field that holds the texts, for errors.
    Raises: ApiError, GenAIError.
    """
    info = request_info()
    timeout = max(state.settings.request_timeout - info.seconds, 0.0)
    try:
        outcome = await unless_gone(request.receive, model.llm.read(lambda: ask(timeout), model.asked_adapter))
    except QueueFullError:
        if state.lifecycle.is_draining:
            raise draining() from None
        raise
    except (ConfigError, TokenizerError) as error:
        raise api_error(error, param=_param(error, param)) from None
    info.prompt_tokens, info.completion_tokens = outcome.prompt_tokens, 0
    return outcome


async def embed(
    model: ServedModel, texts: Texts, request: Request, state: ServerState, *, param: str, **options: Any
) -> Outcome:
    """What a model makes of texts; options: `LLM.embed`'s, checked there. Raises: ApiError, GenAIError."""

    def ask(timeout: float) -> Asked:
        return model.llm.llm.embedder.ask(texts, timeout=timeout, most_tokens=MAX_TOKENS, **options)

    return await read(model, ask, request, state, param=param)


def _param(error: Exception, usual: str) -> str:
    """The field that an error is about: its message begins with an option, or is about the texts."""
    if isinstance(error, TaskError):
        return "model"
    first = re.split(r"[^a-z_]", str(error), maxsplit=1)[0]
    return first if first in _OPTIONS else usual
