"""The page's Content-Security-Policy: `python -m tests.server.playground.policy` puts the right hashes into it."""

from __future__ import annotations

import base64
import hashlib
import re

from tests.server.playground.fake_api import PAGE


def inline_part(name: str) -> bytes:
    found = re.search(rf"<{name}[^>]*>(.*)</{name}>", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert found
    return found[1].encode()


def hash_of(name: str) -> str:
    return base64.b64encode(hashlib.sha256(inline_part(name)).digest()).decode()


def write_policy() -> None:
    """Put the right hashes into the page, after it was edited."""
    text = PAGE.read_text(encoding="utf-8")
    for name in ("script", "style"):
        text = re.sub(rf"{name}-src '[^']*'", f"{name}-src 'sha256-{hash_of(name)}'", text, count=1)
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write_policy()
