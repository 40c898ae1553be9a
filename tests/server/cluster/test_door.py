"""The door in front of Ray's proxies, with something in the place of Ray behind it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Sequence
from typing import Any

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from server.cluster.directory import Directory, Entry
from server.cluster.door import Door
from server.cluster.keys import MAX_LOOK

pytestmark = pytest.mark.anyio

ROOT = Entry(app="genai", route="/", models={"small": []})
BIG = Entry(app="genai-big", route="/~big", models={"big": []})
REPLICA = [(b"content-type", b"application/json"), (b"x-request-id", b"its"), (b"X-Request-ID", b"its")]
"""What comes from a replica has its id twice: from the replica, and from Ray."""


class Behind:
    """What is behind the door: remembers what it was asked, and answers as it was told."""

    def __init__(self, *answer: Message) -> None:
        self.answer = answer or (start(200, REPLICA), chunk(b"{}", more=False))
        self.scope: Scope = {}
        self.body = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope, self.body = scope, b""
        while scope["method"] == "POST":
            message = await receive()
            self.body += message.get("body", b"")
            if not message.get("more_body", False):
                break
        for message in self.answer:
            await send(message)

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.scope["headers"])

    @property
    def session(self) -> bytes:
        return self.headers.get(b"x-session-id", b"")


def start(status: int, headers: Sequence[tuple[bytes, bytes]] = ()) -> Message:
    return {"type": "http.response.start", "status": status, "headers": list(headers)}


def chunk(body: bytes, *, more: bool) -> Message:
    return {"type": "http.response.body", "body": body, "more_body": more}


def client(behind: Behind, *entries: Entry) -> httpx.AsyncClient:
    door = Door(behind, Directory(lambda: entries or (ROOT,)))
    return httpx.AsyncClient(transport=httpx.ASGITransport(door), base_url="http://here")


def chat(text: str, model: str = "small", **more: object) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], "model": model, **more}


async def test_what_ray_obeys_does_not_come_from_clients() -> None:
    behind = Behind()
    headers = {
        "x-request-timeout-seconds": "3",
        "X-Request-Disconnect-Disabled": "?1",
        "serve_multiplexed_model_id": "m",
        "x-session-id": "mine",
        "x-request-id": "\x7f bad",
        "accept-language": "de",
    }
    async with client(behind) as http:
        await http.post("/v1/chat/completions", json=chat("a"), headers=headers)
    assert behind.headers[b"accept-language"] == b"de"
    assert not {b"x-request-timeout-seconds", b"x-request-disconnect-disabled", b"x-request-id"} & behind.headers.keys()
    assert b"serve_multiplexed_model_id" not in behind.headers
    assert behind.session not in (b"", b"mine"), "a key, of what the client calls its session"


async def test_a_conversation_has_a_key_and_a_session_goes_before_it() -> None:
    behind, found = Behind(), []
    async with client(behind) as http:
        for request, headers in (
            (chat("a"), {}),
            (chat("a"), {}),
            (chat("b"), {}),
            (chat("a", model="other"), {}),
            (chat("a"), {"x-session-id": "s"}),
            (chat("b"), {"x-session-id": "s"}),
        ):
            await http.post("/v1/chat/completions", json=request, headers=headers)
            found.append(behind.session)
        await http.get("/v1/models")
    assert found[0] == found[1]
    assert found[4] == found[5]
    assert len(set(found)) == 4
    assert behind.session == b"", "what asks nothing of a model belongs nowhere"


async def test_bodies_pass_unchanged_however_they_come() -> None:
    behind = Behind()
    whole = json.dumps(chat("q" * 3 * MAX_LOOK)).encode()

    async def pieces() -> AsyncIterator[bytes]:
        for place in range(0, len(whole), 10_000):
            yield whole[place : place + 10_000]

    async with client(behind) as http:
        await http.post("/v1/chat/completions", content=pieces())
        assert behind.body == whole
        by_pieces = behind.session
        await http.post("/v1/chat/completions", content=whole)
        assert behind.body == whole
    assert by_pieces


async def test_a_model_has_an_application_of_its_own() -> None:
    behind = Behind()
    async with client(behind, ROOT, BIG) as http:
        for path, request, there in (
            ("/v1/chat/completions", chat("a", "big"), "/~big/v1/chat/completions"),
            ("/v1/chat/completions", chat("a", "small"), "/v1/chat/completions"),
            ("/v1/chat/completions", chat("a", "nobody's"), "/v1/chat/completions"),
            ("/v1/messages", chat("q" * 2 * MAX_LOOK, "big"), "/~big/v1/messages"),
            ("/~big/v1/messages", chat("a", "big"), "/~big/v1/messages"),
        ):
            await http.post(path, json=request)
            assert behind.scope["path"] == there
        await http.get("/v1/models/big")
        assert behind.scope["path"] == "/~big/v1/models/big"
        await http.get("/v1/status")
        assert behind.scope["path"] == "/v1/status"


async def test_who_keeps_an_answer_is_asked_for_it() -> None:
    behind = Behind()
    kept = f"resp_abcd1234{BIG.mark}_{'0' * 32}"
    async with client(behind, ROOT, BIG) as http:
        for method, path in (("GET", f"/v1/responses/{kept}"), ("POST", f"/v1/responses/{kept}/cancel")):
            await http.request(method, path)
            assert (behind.scope["path"], behind.session) == (f"/~big{path}", b"@abcd1234")
        await http.post("/v1/responses", json={"input": "more", "previous_response_id": kept})
        assert (behind.scope["path"], behind.session) == ("/~big/v1/responses", b"@abcd1234")
        await http.get("/v1/responses/resp_of_somebody_else")
        assert behind.session == b""


async def test_an_id_comes_once() -> None:
    async with client(Behind()) as http:
        answer = await http.post("/v1/chat/completions", json=chat("a"))
    assert answer.headers.get_list("x-request-id") == ["its"]


@pytest.mark.parametrize(
    ("status", "code"), [(500, "replica_lost"), (503, "no_replica"), (404, "no_replica"), (408, "deadline_exceeded")]
)
async def test_rays_own_errors_are_told_in_our_words(status: int, code: str) -> None:
    behind = Behind(start(status, [(b"X-Request-ID", b"rays")]), chunk(b"Actor died", more=False))
    async with client(behind) as http:
        answer = await http.post("/v1/chat/completions", json=chat("a"))
    assert answer.status_code == 503
    assert answer.json()["error"]["code"] == code
    assert answer.headers.get_list("x-request-id") == ["rays"]
    assert "retry-after" in answer.headers


async def test_a_replicas_errors_are_its_own() -> None:
    behind = Behind(start(500, REPLICA), chunk(b'{"error": 1}', more=False))
    async with client(behind) as http:
        answer = await http.post("/v1/chat/completions", json=chat("a"))
    assert (answer.status_code, answer.json()) == (500, {"error": 1})


EVENTS = [(b"content-type", b"text/event-stream; charset=utf-8"), *REPLICA[1:]]
LINES = [(b"content-type", b"application/x-ndjson"), *REPLICA[1:]]


@pytest.mark.parametrize(
    ("path", "headers", "begins"),
    [
        ("/v1/chat/completions", EVENTS, 'data: {"error": {"message": "the replica that was answering is gone'),
        ("/chat/completions/", EVENTS, 'data: {"error": {"message": "the replica'),
        ("/v1/messages", EVENTS, 'event: error\ndata: {"type":"error"'),
        ("/v1/responses", EVENTS, 'event: error\ndata: {"type": "error"'),
        ("/api/chat", LINES, '{"error":'),
    ],
)
async def test_a_stream_that_breaks_off_ends_with_an_error(
    path: str, headers: list[tuple[bytes, bytes]], begins: str
) -> None:
    behind = Behind(start(200, headers), chunk(b"data: 1\n\n", more=True))
    async with client(behind) as http:
        answer = await http.post(path, json=chat("a"))
    assert answer.text.removeprefix("data: 1\n\n").replace(": ", ":").startswith(begins.replace(": ", ":"))


async def test_an_answer_that_never_began_is_an_error() -> None:
    class Gone(Behind):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            raise RuntimeError("the proxy broke")

    async with client(Gone()) as http:
        answer = await http.post("/v1/messages", json=chat("a"))
    assert (answer.status_code, answer.json()["type"]) == (503, "error")


async def test_health_is_the_proxys_own_and_readiness_a_replicas(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Behind):
        async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
            import asyncio

            await asyncio.Event().wait()

    async with client(Behind(start(200, REPLICA), chunk(b'{"status":"ready"}', more=False))) as http:
        assert (await http.get("/ready")).json() == {"status": "ready"}
    monkeypatch.setattr("server.cluster.door._READY_SECONDS", 0.02)
    async with client(Silent()) as http:
        assert (await http.get("/health")).json() == {"status": "ok"}
        answer = await http.get("/ready")
    assert (answer.status_code, answer.json()["status"]) == (503, "loading")


async def test_other_applications_are_left_alone() -> None:
    behind = Behind(start(500, [(b"X-Request-ID", b"theirs")]), chunk(b"broken", more=False))
    async with client(behind, BIG) as http:
        answer = await http.get("/other", headers={"x-request-timeout-seconds": "3"})
        assert (answer.status_code, answer.text) == (500, "broken")
        assert behind.headers[b"x-request-timeout-seconds"] == b"3"
        assert (await http.get("/-/routes")).status_code == 500
