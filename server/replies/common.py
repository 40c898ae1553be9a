"""What replies of OpenAI's first two APIs have: an id, a model, counts."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from genai.replies.openai import usage_of
from server.schemas.common import Timings
from server.sse import event

if TYPE_CHECKING:
    from genai.llm.results import Generation
    from server.models import ServedModel


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
        return cls(id=f"{prefix}-{uuid.uuid4().hex}", model=model.asked_name, system_fingerprint=f"fp_{digest}")

    def json(self, kind: str, choices: Sequence[object], **more: object) -> str:
        """A reply, or a piece of one."""
        data = {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "system_fingerprint": self.system_fingerprint,
            "choices": choices,
            **more,
        }
        return json.dumps(data, ensure_ascii=False, allow_nan=False)

    def event(self, kind: str, choices: Sequence[object], **more: object) -> bytes:
        """A piece of a streamed reply."""
        return event(self.json(kind, choices, **more))


def rfc3339(seconds: float) -> str:
    """A time, in seconds since 1970, as RFC 3339 writes it."""
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def counts_of(results: Sequence[Generation]) -> dict[str, object]:
    """Tokens of all results together, and when things happened to the first one."""
    timings = {name: getattr(results[0].timings, name) for name in Timings.model_fields}
    return {"usage": usage_of(results), "timings": timings}
