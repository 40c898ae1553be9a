"""API keys: where they come from, who is let through, and that they are never told."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from genai.errors import ConfigError
from server.auth import ApiKeys, authenticated, load_api_keys
from server.context import request_context
from server.limits import GateMiddleware


async def accepted(scope: Scope, receive: Receive, send: Send) -> None:
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"in"})


def client(keys: list[str], *open_paths: str) -> httpx.AsyncClient:
    app = GateMiddleware(accepted, partial(authenticated, ApiKeys(keys), open_paths))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"authorization": "Bearer right"}, 200),
        ({"authorization": "bearer  other "}, 200),
        ({"x-api-key": "right"}, 200),
        ({"authorization": "Bearer wrong"}, 401),
        ({"authorization": "Bearer righ"}, 401),
        ({"authorization": "Bearer rightt"}, 401),
        ({"authorization": "Basic right"}, 401),
        ({"authorization": "right"}, 401),
        ({"authorization": "Bearer "}, 401),
        ({"x-api-key": ""}, 401),
        ({"authorization": "Bearer wrong", "x-api-key": "right"}, 401),
    ],
)
async def test_who_is_let_through(headers: dict[str, str], status: int) -> None:
    async with client(["right", "other"], "/", "/health") as http:
        answer = await http.get("/v1/models", headers=headers)
    assert answer.status_code == status
    if status == 401:
        assert answer.headers["www-authenticate"] == "Bearer"
        error = answer.json()["error"]
        assert error["code"] == ("missing_api_key" if "no API key" in error["message"] else "invalid_api_key")
        assert "wrong" not in answer.text


@pytest.mark.anyio
async def test_a_key_may_be_any_bytes() -> None:
    async with client(["schlüssel"]) as http:
        for key, status in (
            (b"Bearer schl\xc3\xbcssel", 200),
            (b"Bearer schl\xfcssel", 401),
            (b"Bearer \xff\xff", 401),
        ):
            answer = await http.get("/", headers={b"authorization": key})
            assert answer.status_code == status


@pytest.mark.anyio
async def test_open_paths_and_no_keys() -> None:
    async with client(["k"], "/", "/health") as http:
        statuses = [(await http.get(path)).status_code for path in ("/", "/health", "/health/", "/v1/models", "/x")]
    assert statuses == [200, 200, 401, 401, 401]
    async with client([]) as http:
        assert (await http.get("/v1/models")).status_code == 200


@pytest.mark.anyio
async def test_the_key_is_known_by_its_number() -> None:
    with request_context("") as info:
        async with client(["one", "two"]) as http:
            await http.get("/", headers={"x-api-key": "two"})
        assert info.key == 2


def test_keys_from_a_file_and_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text("# team a\n\n  first  \nsecond\n")
    monkeypatch.setenv("GENAI_API_KEYS", " third ,, first,")
    keys = load_api_keys(file)
    assert len(keys) == 3
    assert [keys.number_of(key) for key in (b"third", b"first", b"second", b"# team a", b"")] == [1, 2, 3, None, None]
    assert "first" not in repr(vars(keys))


def test_a_file_without_a_key_does_not_open_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENAI_API_KEYS", "")
    assert len(load_api_keys(None)) == 0
    file = tmp_path / "keys"
    file.write_text("# none yet\n")
    with pytest.raises(ConfigError, match="holds no API key"):
        load_api_keys(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_api_keys(tmp_path / "missing")
