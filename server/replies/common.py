"""What replies of every API have: an id, a model, counts, and tokens as text."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from server.lifecycle import draining
from server.schemas.generation import PromptTokensDetails, Timings, Usage
from server.sse import event

if TYPE_CHECKING:
    from genai.llm.results import Generation
    from genai.tokenizer.tokenizer import Tokenizer
    from server.models import ServedModel

_LEAST_LOGPROB = -9999.0
"""What OpenAI's API tells instead of minus infinity, which JSON does not have."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """What a reply and all its pieces begin with."""

    id: str
    model: str
    system_fingerprint: str
    created: int = field(default_factory=lambda: int(time.time()))

    @classmethod
    def of(cls, model: ServedModel, prefix: str) -> Head:
        """A new reply of a model."""
        provenance = repr(model.llm.llm.config.provenance).encode()
        digest = hashlib.blake2b(provenance, digest_size=6).hexdigest()
        return cls(id=f"{prefix}-{uuid.uuid4().hex}", model=model.name, system_fingerprint=f"fp_{digest}")

    def event(self, kind: str, choices: Sequence[object], **more: object) -> bytes:
        """A piece of a streamed reply."""
        data = {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.system_fingerprint,
            "choices": choices,
            **more,
        }
        return event(json.dumps(data, ensure_ascii=False, allow_nan=False))

    def usage_event(self, kind: str, results: Sequence[Generation]) -> bytes:
        """The piece that tells the counts."""
        usage, timings = usage_of(results).model_dump(), timings_of(results).model_dump()
        return self.event(kind, [], usage=usage, timings=timings)


def finish_reason(reason: str) -> Literal["stop", "length"]:
    """Why a text ended, in OpenAI's words: a deadline cuts it as a limit does. Raises: ApiError if it was cancelled."""
    if reason == "cancelled":
        raise draining()
    return "stop" if reason == "stop" else "length"


def usage_of(results: Sequence[Generation]) -> Usage:
    """Tokens of all results together."""
    prompt = sum(result.usage.prompt_tokens for result in results)
    completion = sum(result.usage.completion_tokens for result in results)
    cached = sum(result.usage.cached_tokens for result in results)
    return Usage(
        prompt_tokens=prompt,
        completion_tokens=completion,
        total_tokens=prompt + completion,
        prompt_tokens_details=PromptTokensDetails(cached_tokens=cached),
    )


def timings_of(results: Sequence[Generation]) -> Timings:
    """When things happened to the first one."""
    timings = results[0].timings
    return Timings(
        queue_seconds=timings.queue_seconds,
        time_to_first_token=timings.time_to_first_token,
        total_seconds=timings.total_seconds,
        tokens_per_second=timings.tokens_per_second,
    )


def token_text(tokenizer: Tokenizer, token_id: int) -> tuple[str, list[int]]:
    """A token's text, and its bytes, which may be part of a character."""
    data = tokenizer.token_bytes(token_id)
    return data.decode("utf-8", errors="replace"), list(data)


def told_logprob(logprob: float) -> float:
    """A log probability that JSON can write."""
    return max(logprob, _LEAST_LOGPROB)
