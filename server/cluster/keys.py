"""What tells one conversation from another: a session that its client names, or how it begins.

The body of a request is looked at only as far as it has come, and never changed. A conversation begins with everything
up to the user's first message: so its key is the same at each turn.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import pydantic_core

SESSION_HEADERS = (
    *("x-session-id", "session-id", "x-conversation-id", "conversation-id"),
    *("x-openwebui-chat-id", "x-claude-code-session-id", "x-user-id", "x-openwebui-user-id"),
)
"""Headers that name a session, a conversation or a user, the narrower first; `_` is as good as `-`."""
PINNED = "@"
"""What a session id begins with that names a replica instead of a key."""
BEGINNING = 512
"""Characters of each part of a conversation's beginning that count."""
MAX_LOOK = 1 << 16
"""Bytes of a body that are looked at for the beginning of a conversation."""

_TEXTS = ("system", "instructions", "prompt", "input_prefix")
_LISTS = ("messages", "input")

Headers = Iterable[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a request says of itself. key: of its conversation; previous: the answer that it goes on behind."""

    model: str | None = None
    key: str | None = None
    previous: str | None = None


def session_of(headers: Headers) -> str | None:
    """The session or user that a client names, if it does."""
    given = {name.decode("latin-1").lower().replace("_", "-"): value for name, value in headers}
    found = (f"{name}={given[name].decode('latin-1')}" for name in SESSION_HEADERS if given.get(name))
    return next(found, None)


def asked(body: bytes, *, is_whole: bool) -> Asked:
    """What a body says, or what has come of it so far. What is no JSON object says nothing."""
    try:
        value = pydantic_core.from_json(body, allow_partial=False if is_whole else "trailing-strings")
    except ValueError:
        return Asked()
    if not isinstance(value, Mapping):
        return Asked()
    model, previous = value.get("model"), value.get("previous_response_id")
    return Asked(
        model=model if isinstance(model, str) else None,
        key=_key(value),
        previous=previous if isinstance(previous, str) else None,
    )


def _key(body: Mapping[str, object]) -> str | None:
    """A key for the conversation, of what its client says or of how it begins."""
    given = body.get("prompt_cache_key")
    if isinstance(given, str) and given:
        return f"prompt_cache_key={given}"
    parts = [_beginning(body[name]) for name in _TEXTS if body.get(name)]
    for name in _LISTS:
        parts += _first_messages(body.get(name))
    return json.dumps(parts) if parts else None


def _first_messages(messages: object) -> list[str]:
    """The beginnings of all messages up to the user's first one."""
    if isinstance(messages, str):
        return [_beginning(messages)]
    found: list[str] = []
    for message in messages if isinstance(messages, list) else ():
        content = message.get("content") if isinstance(message, Mapping) else message
        found.append(_beginning(content))
        if not isinstance(message, Mapping) or message.get("role") == "user":
            break
    return found


def _beginning(value: object) -> str:
    """The first characters of a text, or of something with texts in it."""
    return (value if isinstance(value, str) else _text(value))[:BEGINNING]


def _text(value: object) -> str:
    """Content as one text: parts that are texts, joined; anything else as JSON."""
    if isinstance(value, list) and all(isinstance(part, Mapping) for part in value):
        return "".join(str(part.get("text", part.get("type", ""))) for part in value)
    return json.dumps(value, ensure_ascii=False)
