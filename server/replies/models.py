"""A model as `/v1/models` tells it."""

from __future__ import annotations

from server.models import ServedModel
from server.replies.common import rfc3339
from server.schemas.models import Model


def described(model: ServedModel, adapter: str | None = None) -> Model:
    """One model, or one of its adapters."""
    return Model(
        id=adapter or model.name,
        created=model.created,
        created_at=rfc3339(model.created),
        display_name=adapter or model.name,
        state=model.state,
        aliases=[] if adapter else model.settings.aliases,
        parent=model.name if adapter else None,
        root=model.adapters[adapter] if adapter else None,
        max_model_len=model.llm.llm.max_seq_len if model.state == "ready" else None,
        capabilities=model.capabilities if model.state == "ready" else None,
    )
