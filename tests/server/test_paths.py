"""Paths as clients write them."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from server.paths import other_names
from tests.server.fakes import FakeModel, app_with, said, serving

pytestmark = pytest.mark.anyio

CHAT = {"messages": [{"role": "user", "content": "Hi"}]}


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("/models", ["/v1/models"]),
        ("/v1/health", ["/v1/health", "/health"]),
        ("/v1/v1/messages", ["/v1/v1/messages", "/v1/messages"]),
        ("/v1/" * 1000, []),
    ],
)
async def test_what_else_a_path_may_mean(path: str, names: list[str]) -> None:
    assert list(other_names(path))[: len(names)] == names


@pytest.mark.parametrize("path", ["/v1/models", "/models", "/v1/v1/models", "/v1/models/", "/v1/health", "/v1/props"])
async def test_reads(path: str) -> None:
    async with serving(app_with(FakeModel())) as http:
        answer = await http.get(path)
        assert answer.status_code == 200
        head = await http.head(path)
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"] == answer.headers["content-type"]


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/v1/chat/completions", "/v1/chat/completions/"])
async def test_conversations(path: str) -> None:
    model = FakeModel()
    model.will_say(*said("Hello"))
    async with serving(app_with(model)) as http:
        answer = await http.post(path, json=CHAT)
        assert answer.json()["choices"][0]["message"]["content"] == "Hello"
        metrics = (await http.get("/metrics")).text
        assert 'route="/v1/chat/completions"' in metrics


async def test_what_is_not_there_stays_so() -> None:
    async with serving(app_with(FakeModel())) as http:
        for path in ("/v2/models", "/v1", "/v1/v1", "/chat", "/" + "v1/" * 5000):
            assert (await http.get(path)).status_code == 404
        assert (await http.head("/v1/chat/completions")).status_code == 405


async def test_another_name_opens_no_door(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys are looked for by the path that is served."""
    monkeypatch.setenv("GENAI_API_KEYS", "right")
    monkeypatch.setenv("GENAI_ADMIN_KEYS", "boss")
    async with serving(app_with(FakeModel())) as http:
        assert (await http.get("/v1/health")).status_code == 200, "open under its own name"
        for path in ("/models", "/v1/v1/models", "/v1/models/"):
            assert (await http.get(path)).status_code == 401
        guest = httpx.Headers({"x-api-key": "right"})
        for path in (
            "/models/load",
            "/v1/v1/models/load",
            "/v1/models/load/",
            "/v1/models/load%0A",
            "/models/load/%0A/",
        ):
            assert (await http.post(path, json={"model": "fake"}, headers=guest)).status_code == 401


async def test_no_door_is_open_where_the_server_is_mounted_under_a_path(monkeypatch: pytest.MonkeyPatch) -> None:
    """As uvicorn's `--root-path` has it: what it is mounted under stands before every path."""
    monkeypatch.setenv("GENAI_API_KEYS", "right")
    monkeypatch.setenv("GENAI_ADMIN_KEYS", "boss")
    app = app_with(FakeModel())
    transport = httpx.ASGITransport(app, root_path="/under")
    async with serving(app), httpx.AsyncClient(transport=transport, base_url="http://localhost/under") as http:
        guest = httpx.Headers({"x-api-key": "right"})
        assert (await http.get("/health")).status_code == 200, "open under its own name"
        assert (await http.get("/models", headers=guest)).status_code == 200
        assert (await http.post("/v1/models/load", json={"model": "fake"}, headers=guest)).status_code == 401
