"""Bodies that are too long, too slow or broken off; requests per key; names of the server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from functools import partial

import httpx
import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.context import request_context
from server.errors import ClientGoneError
from server.limits import BodyMiddleware, GateMiddleware, KeyLimit, allowed_hosts, known_host

pytestmark = pytest.mark.anyio


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"]})


def client(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_a_body_of_the_longest_length_is_taken() -> None:
    async with client(BodyMiddleware(echo, 10, 5)) as http:
        assert (await http.post("/", content=b"x" * 10)).content == b"x" * 10
        assert (await http.post("/", content=pieces(b"x" * 4, b"y" * 6))).content == b"xxxxyyyyyy"
        assert (await http.get("/")).content == b""


async def test_a_longer_one_is_refused_with_the_numbers() -> None:
    async with client(BodyMiddleware(echo, 10, 5)) as http:
        for content in (b"x" * 11, pieces(b"x" * 10, b"x")):
            answer = await http.post("/", content=content)
            assert answer.status_code == 413
            assert answer.json()["error"]["code"] == "body_too_long"
            assert "11 bytes" in answer.json()["error"]["message"]
            assert "at most 10" in answer.json()["error"]["message"]
            assert answer.headers["connection"] == "close"


async def test_a_declared_length_is_believed_only_to_refuse() -> None:
    async with client(BodyMiddleware(echo, 10, 5)) as http:
        answer = await http.post("/", content=b"", headers={"content-length": "11"})
        assert answer.status_code == 413
        answer = await http.post("/", content=pieces(b"x" * 11), headers={"content-length": "5"})
        assert answer.status_code == 413
        answer = await http.post("/", content=b"", headers={"content-length": "-1"})
        assert answer.status_code == 200


async def test_a_body_that_does_not_come_is_given_up() -> None:
    async def forever() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.Event().wait()

    async with client(BodyMiddleware(echo, 10, 0.01)) as http:
        answer = await http.post("/", content=forever())
    assert answer.status_code == 408
    assert answer.headers["connection"] == "close"


async def test_a_client_that_leaves_in_its_body_reaches_nothing() -> None:
    async def receive() -> Message:
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        raise AssertionError(message)

    scope: Scope = {"type": "http", "path": "/", "headers": []}
    with pytest.raises(ClientGoneError):
        await BodyMiddleware(echo, 10, 5)(scope, receive, send)


async def test_requests_of_one_key_are_counted() -> None:
    release = asyncio.Event()

    async def wait(scope: Scope, receive: Receive, send: Send) -> None:
        await release.wait()
        await echo(scope, receive, send)

    limit = KeyLimit(2)
    limited = GateMiddleware(wait, limit)

    async def ask(key: int | None) -> httpx.Response:
        with request_context("") as info:
            info.key = key
            async with client(limited) as http:
                return await http.get("/")

    waiting = [asyncio.create_task(ask(key)) for key in (1, 1, 2, None, None, None)]
    await asyncio.sleep(0)
    while sum(limit._active.values()) < 6:
        await asyncio.sleep(0)
    refused = await ask(1)
    assert refused.status_code == 429
    assert refused.headers["retry-after"]
    assert refused.json()["error"]["code"] == "too_many_requests"
    release.set()
    assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200] * 6
    assert (await ask(1)).status_code == 200, "what has ended does not count"


@pytest.mark.parametrize(
    ("host", "is_known"),
    [
        ("localhost", True),
        ("LOCALHOST:8000", True),
        ("127.0.0.1:80", True),
        ("[::1]:8000", True),
        ("[::1]", True),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("localhost:8000@evil", False),
        ("", False),
    ],
)
async def test_names_of_a_server_on_loopback(host: str, is_known: bool) -> None:
    app = GateMiddleware(echo, partial(known_host, allowed_hosts([], is_on_loopback=True, has_keys=False)))
    async with client(app) as http:
        answer = await http.get("/", headers={"host": host})
    assert answer.status_code == (200 if is_known else 403)


def test_which_names_are_allowed() -> None:
    assert allowed_hosts([], is_on_loopback=False, has_keys=False) == ()
    assert allowed_hosts([], is_on_loopback=True, has_keys=True) == ()
    assert allowed_hosts(["a.example"], is_on_loopback=True, has_keys=False) == ["a.example"]


async def test_errors_are_json() -> None:
    async with client(BodyMiddleware(echo, 1, 5)) as http:
        answer = await http.post("/", content=b"xx")
    assert json.loads(answer.content)["error"].keys() == {"message", "type", "param", "code"}
