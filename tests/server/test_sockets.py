"""The real server over real sockets: streams as they come, clients that leave, stall or send rubbish, and its end."""

from __future__ import annotations

import asyncio
import itertools
import json
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import httpx
import pytest

from genai.llm.results import Chunk
from server.process import DrainingServer
from server.settings import Settings
from tests.server.fakes import FakeModel, chunk, fake_pool, said

pytestmark = pytest.mark.anyio

HELLO = {"messages": [{"role": "user", "content": "Hi"}]}
CHAT = "/v1/chat/completions"


class Running:
    """A server on loopback."""

    def __init__(self, server: DrainingServer, model: FakeModel, task: asyncio.Task[None]) -> None:
        self.server = server
        self.model = model
        self.task = task
        self.port: int = server.servers[0].sockets[0].getsockname()[1]
        self.http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=60)

    def signal(self) -> None:
        self.server.handle_exit(signal.SIGTERM, None)

    async def open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def post(self, body: object) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Send a request, and read nothing."""
        reader, writer = await self.open()
        content = json.dumps(body).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        await writer.drain()
        return reader, writer


@asynccontextmanager
async def running(**settings: object) -> AsyncIterator[Running]:
    chosen = Settings.model_validate({"models": ["fake"], "port": 0, **settings})
    model = FakeModel()
    server = DrainingServer(chosen, fake_pool(chosen, {"fake": model}))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    it = Running(server, model, task)
    try:
        yield it
    finally:
        await it.http.aclose()
        server.should_exit = True
        await task


async def until(condition: object) -> None:
    """Wait for something that is about to happen."""
    assert callable(condition)
    while not condition():
        await asyncio.sleep(0.005)


async def first_text(lines: AsyncIterator[str]) -> None:
    """The role, and then the first text."""
    told = [await anext(lines) for _ in range(3)]
    assert ["role" in told[0], "first" in told[2]] == [True, True]


def endless(text: str) -> Iterator[Chunk]:
    return itertools.repeat(chunk(text))


async def test_pieces_arrive_while_the_rest_is_not_there() -> None:
    async with running() as it:
        go_on = asyncio.Event()
        it.model.will_say(chunk("first"), go_on, *said("second"))
        async with it.http.stream("POST", CHAT, json={**HELLO, "stream": True}) as answer:
            lines = answer.aiter_lines()
            await first_text(lines)
            go_on.set()
            rest = [line async for line in lines if line]
        assert "second" in rest[0]
        assert rest[-1] == "data: [DONE]"
        assert answer.headers["x-request-id"]
        assert "server" not in answer.headers


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("is_begun", [True, False])
@pytest.mark.parametrize("way", ["close", "reset", "half-close"])
async def test_a_client_that_leaves_cancels(stream: bool, is_begun: bool, way: str) -> None:
    async with running() as it:
        never = asyncio.Event()
        it.model.will_say(*([chunk("a")] if is_begun else []), never)
        reader, writer = await it.post({**HELLO, "stream": stream})
        await until(lambda: it.model.submissions)
        if stream and is_begun:
            await reader.readuntil(b"\n\n")
        if way == "half-close":
            writer.write_eof()
        elif way == "reset":
            writer.transport.abort()
        else:
            writer.close()
        await it.model.submissions[0].is_cancelled.wait()
        await until(lambda: it.server.state.lifecycle.num_active == 0)
        writer.close()
        it.model.will_say(*said("next"))
        assert (await it.http.post(CHAT, json=HELLO)).status_code == 200


async def test_a_client_that_stops_reading_loses_its_stream() -> None:
    async with running(send_timeout=0.2) as it:
        it.model.scripts.append(endless("x" * 65536))  # type: ignore[arg-type]
        _, writer = await it.post({**HELLO, "stream": True})
        await until(lambda: it.model.submissions)
        await it.model.submissions[0].is_cancelled.wait()
        await until(lambda: it.server.state.lifecycle.num_active == 0)
        writer.transport.abort()


async def test_slow_bodies_are_given_up() -> None:
    async with running(body_timeout=0.1) as it:
        reader, writer = await it.open()
        head = b"Host: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n"
        writer.write(f"POST {CHAT} HTTP/1.1\r\n".encode() + head + b'{"mess')
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 408 ")
        assert b"body_timeout" in answer
        writer.close()


@pytest.mark.parametrize("sent", [b"", b"GET / HT", b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\nGET / HT"])
async def test_connections_that_say_nothing_are_closed(sent: bytes) -> None:
    async with running(body_timeout=0.3) as it:
        reader, writer = await it.open()
        writer.write(sent)
        answer = await reader.read()  # until the server closes
        assert answer.startswith(b"HTTP/1.1 200 ") == sent.startswith(b"GET /health")
        writer.close()


async def test_a_request_that_takes_long_is_not_silence() -> None:
    async with running(body_timeout=1.0) as it:
        go_on = asyncio.Event()
        it.model.will_say(chunk("first"), go_on, *said("second"))
        async with it.http.stream("POST", CHAT, json={**HELLO, "stream": True}) as answer:
            lines = answer.aiter_lines()
            await anext(lines)
            await asyncio.sleep(1.5)
            go_on.set()
            assert [line async for line in lines if line][-1] == "data: [DONE]"


async def test_a_body_that_is_announced_as_too_long_is_not_waited_for() -> None:
    async with running() as it:
        reader, writer = await it.open()
        head = b"Host: localhost\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n"
        writer.write(f"POST {CHAT} HTTP/1.1\r\n".encode() + head)
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 413 ")
        writer.close()


RUBBISH = [
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET / HTTP/1.1\r\n\r\n",
    b"GET  /\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: abc\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
    b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
]


async def test_rubbish_and_connections_that_say_nothing() -> None:
    async with running() as it:
        silent = [await it.open() for _ in range(50)]
        for content in RUBBISH:
            reader, writer = await it.open()
            writer.write(content)
            writer.write_eof()
            answer = await reader.read()
            assert not answer.startswith(b"HTTP/1.1 5"), answer
            writer.close()
        assert (await it.http.get("/health")).status_code == 200
        for _, writer in silent:
            writer.close()


async def test_paths_that_are_no_text() -> None:
    async with running() as it:
        reader, writer = await it.open()
        writer.write(b"GET /v1/models/%ff%fe%00%0d%0a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 404 ")
        writer.close()


async def test_two_requests_on_one_connection() -> None:
    async with running() as it:
        it.model.will_say(*said("one"))
        it.model.will_say(*said("two"))
        reader, writer = await it.post({**HELLO, "stream": True})
        content = json.dumps(HELLO).encode()
        head = f"POST {CHAT} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        answer = (await reader.read()).decode()
        assert answer.count("HTTP/1.1 200") == 2
        assert answer.index("one") < answer.index("[DONE]") < answer.index("two")
        writer.close()


async def test_a_signal_lets_accepted_requests_end_and_refuses_new_ones() -> None:
    async with running(drain_timeout=600) as it:
        go_on = asyncio.Event()
        it.model.will_say(chunk("first"), go_on, *said("second"))
        async with it.http.stream("POST", CHAT, json={**HELLO, "stream": True}) as answer:
            lines = answer.aiter_lines()
            await first_text(lines)
            it.signal()
            async with httpx.AsyncClient(base_url=it.http.base_url) as other:
                ready = await other.get("/ready")
                assert (ready.status_code, ready.json()["status"]) == (503, "draining")
                refused = await other.post(CHAT, json=HELLO)
                assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
                assert refused.headers["retry-after"]
            assert not it.task.done()
            go_on.set()
            rest = [line async for line in lines if line]
        assert rest[-1] == "data: [DONE]"
        await it.task
        assert it.model.is_closed
        with pytest.raises(httpx.ConnectError):
            await it.http.get("/health")


async def test_draining_has_an_end() -> None:
    async with running(drain_timeout=0.1) as it:
        never = asyncio.Event()

        def close() -> None:
            """As the real one: what runs is cancelled, and says so."""
            it.model.is_closed = True
            loop.call_soon_threadsafe(never.set)

        loop = asyncio.get_running_loop()
        it.model.close = close  # type: ignore[method-assign]
        it.model.will_say(chunk("first"), never, *said("", finish_reason="cancelled"))
        async with it.http.stream("POST", CHAT, json={**HELLO, "stream": True}) as answer:
            lines = answer.aiter_lines()
            await first_text(lines)
            it.signal()
            rest = [line async for line in lines if line]
        assert json.loads(rest[-1].removeprefix("data: "))["error"]["code"] == "shutting_down"
        await it.task


async def test_a_second_signal_ends_at_once() -> None:
    async with running(drain_timeout=600) as it:
        it.model.will_say(chunk("first"), asyncio.Event())
        reader, writer = await it.post({**HELLO, "stream": True})
        await reader.readuntil(b"\n\n")
        it.signal()
        it.signal()
        await it.task
        writer.close()
        for task in it.server.server_state.tasks:
            task.cancel()


async def test_too_many_connections() -> None:
    async with running(max_connections=3) as it:
        assert (await it.http.get("/v1/models")).status_code == 200
        held = [await it.open() for _ in range(3)]
        await until(lambda: len(it.server.server_state.connections) == 4)
        answer = await it.http.get("/v1/models")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "too_many_connections")
        assert answer.headers["retry-after"]
        assert answer.headers["x-request-id"]
        assert (await it.http.get("/health")).status_code == 200, "a full server is no dead one"
        for _, writer in held:
            writer.close()
        await until(lambda: len(it.server.server_state.connections) < 3)
        assert (await it.http.get("/v1/models")).status_code == 200
