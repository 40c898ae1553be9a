"""Where applications' entries are kept: in the store that every Ray has, beside Serve's own."""

from __future__ import annotations

from collections.abc import Sequence

from ray.experimental import internal_kv

from server.cluster.directory import Entry

_NAMESPACE = b"genai"
_PREFIX = b"app:"


def write_entry(entry: Entry) -> None:
    """Write an application's entry down, in place of what it had."""
    internal_kv._internal_kv_put(_PREFIX + entry.app.encode(), entry.to_json(), namespace=_NAMESPACE)


def remove_entry(app: str) -> None:
    """Forget an application."""
    internal_kv._internal_kv_del(_PREFIX + app.encode(), namespace=_NAMESPACE)


def read_entries() -> Sequence[Entry]:
    """All of them."""
    keys = internal_kv._internal_kv_list(_PREFIX, namespace=_NAMESPACE)
    texts = (internal_kv._internal_kv_get(key, namespace=_NAMESPACE) for key in keys)
    return [Entry.from_json(text) for text in texts if text]
