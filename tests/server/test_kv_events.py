"""Events of the prefix cache as a router receives them, on loopback, of a server that answers."""

from __future__ import annotations

import contextlib
import string
from collections.abc import Iterator
from pathlib import Path

import msgpack
import pytest
import zmq

from genai.engine.prefix_cache import BLOCK_SIZE, BlocksRemoved, BlocksStored
from genai.errors import ConfigError
from server.kv_events import KvEvents, events_of
from server.settings import Settings
from tests.server.live import live_server
from tests.tiny_package import tiny_package


@contextlib.contextmanager
def listening(endpoint: str, topic: str) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.setsockopt(zmq.SUBSCRIBE, topic.encode())
        socket.rcvtimeo = 10_000
        socket.connect(endpoint)
        yield socket


def received(socket: zmq.Socket[bytes]) -> tuple[str, int, list[object]]:
    """(topic, number, event) of the next message."""
    topic, number, batch = socket.recv_multipart()
    seconds, (event,), rank = msgpack.unpackb(batch)
    assert seconds > 1.7e9
    assert rank == 0
    return topic.decode(), int.from_bytes(number, "big"), event


def test_a_router_hears_of_prompts(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/events"
    settings = {"kv_events_endpoint": endpoint, "kv_events_topic": "kv@pod@{model}"}
    package = tiny_package(tmp_path / "tiny")
    with listening(endpoint, "kv@pod@tiny") as socket:
        with live_server({"tiny": package}, **settings) as server:
            for letter in string.ascii_uppercase:  # what is published before somebody listens is lost
                server.openai.completions.create(model="tiny", prompt=letter * 40, max_tokens=1)
                if socket.poll(200):
                    break
            while socket.poll(200):
                topic, before, _ = received(socket)
            assert topic == "kv@pod@tiny"
            prompts = ["a" * 40, "a" * 16 + "b" * 30]
            for text in prompts:
                server.openai.completions.create(model="tiny", prompt=text, max_tokens=1)
            events = [received(socket) for _ in prompts]
        _, last, cleared = received(socket)
    assert [number for _, number, _ in events] == [before + 1, before + 2]
    assert (last, cleared) == (before + 3, ["AllBlocksCleared"])
    (first, second) = (event for _, _, event in events)
    kind, hashes, parent, *stored = first
    assert (kind, parent, stored) == ("BlockStored", None, [list(b"a" * 32), BLOCK_SIZE, None, None, None])
    assert second == ["BlockStored", second[1], hashes[0], list(b"b" * 16), BLOCK_SIZE, None, None, None]  # type: ignore[index]


def test_an_address_that_cannot_be_had() -> None:
    with pytest.raises(ConfigError, match="kv_events_endpoint='tcp://nowhere': cannot be listened on"):
        events_of(Settings(kv_events_endpoint="tcp://nowhere"))
    assert events_of(Settings()) is None


def test_removed_blocks_are_told_by_their_hashes(tmp_path: Path) -> None:
    endpoint = f"ipc://{tmp_path}/events"
    with listening(endpoint, "") as socket:
        events = KvEvents(endpoint, "t")
        while not socket.poll(100):  # what is published before somebody listens is lost
            events.forget("m")
        events._put("m", BlocksRemoved(keys=(bytes(range(16)),)))
        while (event := received(socket)[2]) == ["AllBlocksCleared"]:
            pass
        assert event == ["BlockRemoved", [0x0001020304050607], None]
        events._put("m", BlocksStored(keys=(bytes(16),), parent=None, tokens=(1, 2), adapter="french"))
        assert received(socket)[2] == ["BlockStored", [0], None, [1, 2], BLOCK_SIZE, None, None, "french"]
        events.close()
