"""Embeddings in OpenAI's form, for the server and for batch files."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from genai.decoding.processors import FloatArray
    from genai.llm.reading import Outcome


def embeddings_reply(outcome: Outcome, model: str, *, is_base64: bool) -> dict[str, object]:
    """The body of an answer. is_base64: each vector's bytes in place of its numbers."""
    usage = {"prompt_tokens": outcome.prompt_tokens, "total_tokens": outcome.prompt_tokens}
    data = [
        {"object": "embedding", "index": index, "embedding": _base64(vector) if is_base64 else vector.tolist()}
        for index, vector in enumerate(outcome.values)
    ]
    return {"object": "list", "data": data, "model": model, "usage": usage}


def _base64(vector: FloatArray) -> str:
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")
