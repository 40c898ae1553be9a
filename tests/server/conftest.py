"""What the server's tests share."""

from __future__ import annotations

import pytest

from genai.config import environment


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Tests that are coroutines run on asyncio, as the server does."""
    return "asyncio"


@pytest.fixture(autouse=True)
def _no_settings_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GENAI_API_KEYS", *environment("GENAI_SERVER_")):
        monkeypatch.delenv(name, raising=False)
