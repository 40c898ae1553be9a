"""A model as `/v1/models` tells it."""

from __future__ import annotations

from server.models import ServedModel
from server.replies.common import rfc3339
from server.schemas.models import Model


def described(model: ServedModel) -> Model:
    """One model."""
    return Model(
        id=model.name,
        created=model.created,
        created_at=rfc3339(model.created),
        display_name=model.name,
        state=model.state,
        aliases=model.settings.aliases,
        max_model_len=model.llm.llm.max_seq_len if model.state == "ready" else None,
        capabilities=model.capabilities if model.state == "ready" else None,
    )
