"""Event streams: errors before and within, silences, and clients that leave or stop reading."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

import pytest
from starlette.types import Message, Scope

from genai.errors import ConfigError, GraphRunError
from server.errors import ClientGoneError
from server.sse import KEEP_ALIVE, EventStream, event

pytestmark = pytest.mark.anyio

SCOPE: Scope = {"type": "http", "path": "/v1/chat/completions", "headers": []}


class Client:
    """The other end: keeps what it is sent, leaves when told, and reads nothing while it is stuck."""

    def __init__(self) -> None:
        self.left = asyncio.Event()
        self.can_read = asyncio.Event()
        self.can_read.set()
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.body = b""
        self.is_ended = False

    async def receive(self) -> Message:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        await self.can_read.wait()
        if message["type"] == "http.response.start":
            assert not self.status
            self.status, self.headers = message["status"], dict(message["headers"])
        else:
            self.body += message.get("body", b"")
            self.is_ended = not message.get("more_body", False)

    async def read(
        self, events: AsyncGenerator[bytes, None], *, keep_alive: float = 60, send_timeout: float = 60
    ) -> None:
        stream = EventStream(events, keep_alive_interval=keep_alive, send_timeout=send_timeout)
        await stream(SCOPE, self.receive, self.send)


async def test_events_are_sent_as_they_come() -> None:
    client = Client()

    async def events() -> AsyncGenerator[bytes, None]:
        for number in range(3):
            yield event(f'{{"n":{number}}}')
            while client.body.count(b"data:") <= number:
                await asyncio.sleep(0)

    await client.read(events())
    assert client.status == 200
    assert client.headers[b"content-type"] == b"text/event-stream; charset=utf-8"
    assert client.headers[b"cache-control"] == b"no-cache"
    assert client.body == b'data: {"n":0}\n\ndata: {"n":1}\n\ndata: {"n":2}\n\n'
    assert client.is_ended


async def test_what_came_meanwhile_is_sent_together_and_not_without_end() -> None:
    client, made = Client(), 0
    client.can_read.clear()

    async def events() -> AsyncGenerator[bytes, None]:
        nonlocal made
        for _ in range(1000):
            made += 1
            yield b"x" * 1024

    reading = asyncio.create_task(client.read(events()))
    for _ in range(1000):
        await asyncio.sleep(0)
    assert made <= 128, "a client that reads nothing holds its stream"
    client.can_read.set()
    await reading
    assert len(client.body) == 1000 * 1024


async def test_an_error_before_the_first_event_is_a_plain_answer() -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        raise ConfigError("no")
        yield b""

    client = Client()
    await client.read(events())
    assert client.status == 400
    assert client.headers[b"content-type"] == b"application/json"
    assert b'"message": "no"' in client.body
    assert client.is_ended


async def test_an_error_after_it_is_an_event() -> None:
    async def events() -> AsyncGenerator[bytes, None]:
        yield event("1")
        raise GraphRunError("secret details of the runtime")

    client = Client()
    await client.read(events())
    assert client.status == 200
    first, second = client.body.decode().strip().split("\n\n")
    assert first == "data: 1"
    assert second.startswith('data: {"error": {"message": "the model failed')
    assert "secret" not in second
    assert "[DONE]" not in second
    assert client.is_ended


async def test_silences_are_filled_with_comments() -> None:
    go_on = asyncio.Event()

    async def events() -> AsyncGenerator[bytes, None]:
        await go_on.wait()
        yield event("1")

    client = Client()
    reading = asyncio.create_task(client.read(events(), keep_alive=0.001))
    while client.body.count(KEEP_ALIVE) < 3:
        await asyncio.sleep(0)
    assert client.status == 200
    go_on.set()
    await reading
    assert client.body.endswith(b"data: 1\n\n")
    assert client.body.replace(KEEP_ALIVE, b"") == b"data: 1\n\n"


@pytest.mark.parametrize("is_begun", [True, False])
async def test_a_client_that_leaves_ends_the_generator(is_begun: bool) -> None:
    closed = asyncio.Event()

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            if is_begun:
                yield event("1")
            await asyncio.Event().wait()
        finally:
            closed.set()

    client = Client()
    reading = asyncio.create_task(client.read(events()))
    await asyncio.sleep(0.01)
    client.left.set()
    with pytest.raises(ClientGoneError):
        await reading
    assert closed.is_set()
    assert not client.is_ended


async def test_a_client_that_stops_reading_ends_the_generator() -> None:
    closed = asyncio.Event()

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield event("1")
                client.can_read.clear()
        finally:
            closed.set()

    client = Client()
    with pytest.raises(ClientGoneError):
        await client.read(events(), send_timeout=0.01)
    assert closed.is_set()


async def test_cancelling_the_answer_ends_the_generator() -> None:
    closed = asyncio.Event()

    async def events() -> AsyncGenerator[bytes, None]:
        try:
            await asyncio.Event().wait()
            yield b""
        finally:
            closed.set()

    reading = asyncio.create_task(Client().read(events()))
    await asyncio.sleep(0.01)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert closed.is_set()


def test_named_events() -> None:
    assert event("{}", "message_start") == b"event: message_start\ndata: {}\n\n"
