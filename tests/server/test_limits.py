"""Requests per key; names of the server."""

from __future__ import annotations

import asyncio
from functools import partial

import httpx
import pytest
from starlette.types import ASGIApp, Receive, Scope, Send

from server.context import request_context
from server.limits import GateMiddleware, KeyLimit, allowed_hosts, known_host

pytestmark = pytest.mark.anyio


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"]})


def client(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


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
