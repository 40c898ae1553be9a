"""The table of `docs/clients.md`, and what it is held to."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping

from tests.clients import environments

PAGE = environments.ROOT / "docs" / "clients.md"
PACKAGES = {
    "ai-sdk": "ai",
    "aider": "aider-chat",
    "codex": "@openai/codex",
    "opencode": "opencode-ai",
    "pydantic-ai": "pydantic-ai-slim",
}
"""What a client is called in its registry, if not by its own name."""


def rows() -> list[tuple[str, str, str, tuple[str, ...]]]:
    """Client, release, API, and the kinds of use that are run."""
    found = re.findall(r"^\| \[(\S+)\]\(#\1\) \| (\S+) \| (\w+) \| (.*) \|$", PAGE.read_text(), re.M)
    return [(name, version, api, tuple(kinds.split(", "))) for name, version, api, kinds in found]


def release(name: str) -> str:
    """The release of a client that its lock names."""
    package = PACKAGES.get(name, name)
    if environments.needs_node(name):
        lock = json.loads((environments.FOLDER / name / environments.NODE_LOCK).read_text())
        return str(lock["packages"][f"node_modules/{package}"]["version"])
    lock = (environments.FOLDER / name / environments.PYTHON_LOCK).read_text()
    found = re.search(rf"^{re.escape(package)}(?:\[\w+\])?==(\S+)", lock, re.M)
    assert found, name
    return found[1]


def assert_documented(name: str, said: Mapping[str, Iterable[str]]) -> None:
    """The table tells exactly what was run: kinds by API."""
    told = {api: kinds for client, _, api, kinds in rows() if client == name}
    assert told == {api: tuple(kinds) for api, kinds in said.items()}
