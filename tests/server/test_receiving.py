"""Bodies that are too long, too slow, broken off, or too much together; and what of them is kept in memory."""

from __future__ import annotations

import asyncio
import json
import resource
import time
import tracemalloc
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from server.errors import ClientGoneError
from server.receiving import MAX_VALUES, SMALL_BYTES, BodyLimits, BodyMiddleware, ValueCounter
from tests.server.fakes import FakeModel, app_with, said, serving
from tests.server.live import live_server
from tests.tiny_package import tiny_package

pytestmark = pytest.mark.anyio

MIB = 1 << 20


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    message = await receive()
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": message["body"]})


def client(app: ASGIApp) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")


def limits(max_bytes: int, together: int = 1 << 30, timeout: float = 5) -> BodyLimits:
    return BodyLimits(max_bytes=max_bytes, max_bytes_together=together, timeout=timeout)


async def pieces(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def test_a_body_of_the_longest_length_is_taken() -> None:
    async with client(BodyMiddleware(echo, limits(10))) as http:
        assert (await http.post("/", content=b"x" * 10)).content == b"x" * 10
        assert (await http.post("/", content=pieces(b"x" * 4, b"y" * 6))).content == b"xxxxyyyyyy"
        assert (await http.get("/")).content == b""


async def test_a_longer_one_is_refused_with_the_numbers() -> None:
    async with client(BodyMiddleware(echo, limits(10))) as http:
        for content in (b"x" * 11, pieces(b"x" * 10, b"x")):
            answer = await http.post("/", content=content)
            assert answer.status_code == 413
            assert answer.json()["error"]["code"] == "body_too_long"
            assert "11 bytes" in answer.json()["error"]["message"]
            assert "at most 10" in answer.json()["error"]["message"]
            assert answer.headers["connection"] == "close"


async def test_a_declared_length_is_believed_only_to_refuse() -> None:
    async with client(BodyMiddleware(echo, limits(10))) as http:
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

    async with client(BodyMiddleware(echo, limits(10, timeout=0.01))) as http:
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
        await BodyMiddleware(echo, limits(10))(scope, receive, send)


async def test_errors_are_json() -> None:
    async with client(BodyMiddleware(echo, limits(1))) as http:
        answer = await http.post("/", content=b"xx")
    assert json.loads(answer.content)["error"].keys() == {"message", "type", "param", "code"}


async def test_large_bodies_are_counted_together_until_they_are_answered() -> None:
    answering, release = asyncio.Event(), asyncio.Event()

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await receive()
        answering.set()
        await release.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async with client(BodyMiddleware(slow, limits(8 * MIB, together=4 * MIB))) as http:
        first = asyncio.ensure_future(http.post("/", content=b"x" * (4 * MIB)))
        await answering.wait()
        refused = await http.post("/", content=b"x" * (3 * MIB))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "too_many_bodies")
        assert refused.headers["retry-after"]
        small = [asyncio.ensure_future(http.post("/", content=b"x" * SMALL_BYTES)) for _ in range(8)]
        await asyncio.sleep(0.05)
        release.set()
        assert {(await each).status_code for each in (first, *small)} == {200}
        assert (await http.post("/", content=b"x" * (4 * MIB))).status_code == 200, "nothing is held any more"
        big = [http.post("/", content=pieces(b"x" * (4 * MIB), b"x" * (5 * MIB))) for _ in range(3)]
        assert [(await each).status_code for each in big] == [413] * 3
        assert (await http.post("/", content=b"x" * (4 * MIB))).status_code == 200, "nor of what was refused"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(st.sampled_from('a,[{"\\}é')),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(st.sampled_from('b,{"\\')), inner, max_size=4),
    max_leaves=20,
)


def num_begun(value: object) -> int:
    """Commas and brackets of a value."""
    if isinstance(value, list | dict):
        inner = list(value.values()) if isinstance(value, dict) else value
        return 1 + max(len(inner) - 1, 0) + sum(map(num_begun, inner))
    return 0


@given(JSON, st.integers(1, 7), st.booleans())
def test_values_are_counted_whatever_the_pieces(value: object, length: int, is_ascii: bool) -> None:
    body = json.dumps(value, ensure_ascii=is_ascii).encode()
    counter = ValueCounter()
    for start in range(0, len(body), length):
        counter.add(body[start : start + length])
    assert counter.count == num_begun(value)


LARGE = {
    "objects": b'{"messages":[' + b"{}," * 10_000_000 + b"{}]}",
    "numbers": b'{"prompt":[' + b"0," * 15_000_000 + b"0]}",
    "lists": b'{"input":' + b"[" * 30_000_000 + b"]}",
    "fields": b'{"a":1' + b',"":1' * 6_000_000 + b"}",
}


async def answered(content: bytes, path: str = "/v1/chat/completions") -> tuple[httpx.Response, int, float]:
    """The answer of an application, how much memory was taken at most, and the seconds it worked."""
    model = FakeModel()
    model.will_say(*said("a"))

    async def sent() -> AsyncIterator[bytes]:
        for start in range(0, len(content), 1 << 16):
            yield content[start : start + (1 << 16)]

    async with serving(app_with(model)) as http:
        await http.post(path, json={"messages": []})  # what is made once
        tracemalloc.start()
        started = time.process_time()
        answer = await http.post(path, content=sent(), headers={"content-type": "application/json"})
        seconds, (_, peak) = time.process_time() - started, tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return answer, peak, seconds


@pytest.mark.parametrize("kind", LARGE)
async def test_millions_of_values_are_refused_before_they_are_there(kind: str) -> None:
    """Read, they would take gigabytes."""
    answer, peak, seconds = await answered(LARGE[kind])
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "body_too_long")
    assert f"more than {MAX_VALUES} values" in answer.json()["error"]["message"]
    assert peak < 16 * MIB
    assert seconds < 5  # about 0.3 s


async def test_a_long_history_is_taken() -> None:
    """An agent's: 30 MiB in a few thousand messages."""
    text = 'def f(x):\n    return {"a": [x, "é", \'\\\\\']}\n' * 150
    turns = [{"role": role, "content": text} for _ in range(1900) for role in ("user", "assistant")]
    content = json.dumps({"messages": turns}).encode()
    assert 28 * MIB < len(content) < 32 * MIB
    answer, peak, seconds = await answered(content)
    assert answer.status_code == 200, answer.text[:500]
    assert peak < 6 * len(content)
    assert seconds < 10


def test_a_prompt_that_cannot_fit_is_not_encoded_whole(tmp_path: Path) -> None:
    """Thirty million tokens would take six gigabytes and minutes."""
    body = json.dumps({"model": "tiny", "prompt": "x" * (30 * MIB)}).encode()
    turns = [{"role": "user", "content": "x " * (6 * MIB)}]
    chat = json.dumps({"model": "tiny", "messages": [*turns, *turns]}).encode()
    half = json.dumps({"model": "tiny", "messages": turns}).encode()
    headers, long = (
        {"content-type": "application/json"},
        "maximum context length is 4096 tokens. However, the prompt has",
    )
    with live_server({"tiny": tiny_package(tmp_path / "tiny")}) as live:
        started, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for path, content, message in (
            ("/v1/completions", body, long),
            ("/v1/chat/completions", chat, long),
            ("/tokenize", body, "at most 1048576 are encoded at once"),
            ("/v1/messages/count_tokens", half, "at most 1048576 are encoded at once"),
        ):
            answer = live.http.post(path, content=content, headers=headers)
            assert answer.status_code == 400
            assert message in answer.json()["error"]["message"]
        seconds, more = time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert more < 600 * 1024, "kilobytes: ten times the largest body, and the pieces"
    assert seconds < 60
