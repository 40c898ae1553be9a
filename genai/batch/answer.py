"""A result as the body of one line of a batch file: a `chat.completion` or a `text_completion` of OpenAI's API."""

from __future__ import annotations

import time
import uuid
from typing import cast

from genai.batch.request import JSON, BatchRequest
from genai.llm.results import Generation
from genai.replies.openai import chat_choice, completion_choices, usage_of
from genai.tokenizer.tokenizer import Tokenizer


def answer(request: BatchRequest, result: Generation, tokenizer: Tokenizer, first_token: int) -> dict[str, JSON]:
    """The body of a response; first_token: of the prompt, which has no log probability."""
    if request.kind == "chat":
        prefix, kind = "chatcmpl", "chat.completion"
        choices = [chat_choice(choice, tokenizer) for choice in result.choices]
    else:
        prefix, kind = "cmpl", "text_completion"
        choices = completion_choices(result, tokenizer, has_top=True, first_token=first_token)
    body: dict[str, object] = {
        "id": f"{prefix}-{uuid.uuid4().hex}",
        "object": kind,
        "created": int(time.time()),
        "model": request.model,
        "choices": choices,
        "usage": usage_of([result]),
    }
    return cast("dict[str, JSON]", body)
