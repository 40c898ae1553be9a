"""What prefix caches store and remove, published for routers in the form that vLLM's are: msgpack over ZeroMQ.

    topic | number of the message, 8 bytes | [seconds since 1970, [event, …], rank]
    event: ["BlockStored", [hash, …], parent's hash or nil, [token, …], tokens of a block, nil, nil, adapter or nil]
           ["BlockRemoved", [hash, …], nil]     ["AllBlocksCleared"]

A hash is the first 64 bits of a block's key, in which an adapter's contents are; the adapter's name is vLLM's
`lora_name`. The nils are its `lora_id`, which it has given up, and `medium`: there is one memory. Who loses messages,
as their numbers tell, forgets what is known.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from genai.engine.prefix_cache import BLOCK_SIZE, BlocksRemoved, BlocksStored
from genai.errors import ConfigError
from genai.extras import require
from server.settings import Settings

if TYPE_CHECKING:
    from genai.llm.llm import LLM

_log = logging.getLogger(__name__)

_RANK = 0
_MAX_BEHIND = 10_000
"""Messages that wait for a slow listener; then it loses some."""


def events_of(settings: Settings) -> KvEvents | None:
    """The publisher that settings ask for. Raises: ConfigError, RuntimeUnavailableError without the extra."""
    if settings.kv_events_endpoint is None:
        return None
    require("events", "kv_events_endpoint")
    return KvEvents(settings.kv_events_endpoint, settings.kv_events_topic)


class KvEvents:
    """One socket for all models, with a thread of its own: engines only put their events into a queue."""

    def __init__(self, endpoint: str, topic: str) -> None:
        import zmq

        self._topic = topic
        self._waiting: queue.SimpleQueue[tuple[str, list[object]] | None] = queue.SimpleQueue()
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        self._socket.set_hwm(_MAX_BEHIND)
        self._socket.linger = 0
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            self._context.destroy()
            raise ConfigError(f"kv_events_endpoint={endpoint!r}: cannot be listened on: {error}") from None
        _log.info("events of the prefix cache are published at %s", endpoint)
        self._thread = threading.Thread(target=self._publish, name="kv-events", daemon=True)
        self._thread.start()

    def watch(self, name: str, llm: LLM) -> None:
        """Publish a model's events from now on; what it was known to hold is gone."""
        self.forget(name)
        llm.engine.watch_prefixes(partial(self._put, name))

    def forget(self, name: str) -> None:
        """Say that a model holds nothing."""
        self._waiting.put((name, ["AllBlocksCleared"]))

    def close(self) -> None:
        """Publish what waits, and end."""
        self._waiting.put(None)
        self._thread.join()

    def _put(self, name: str, event: BlocksStored | BlocksRemoved) -> None:
        """Called by engines, between two steps."""
        hashes = [_hash(key) for key in event.keys]
        if isinstance(event, BlocksRemoved):
            self._waiting.put((name, ["BlockRemoved", hashes, None]))
        else:
            parent = None if event.parent is None else _hash(event.parent)
            told: list[object] = [hashes, parent, list(event.tokens), BLOCK_SIZE, None, None, event.adapter]
            self._waiting.put((name, ["BlockStored", *told]))

    def _publish(self) -> None:
        import msgpack

        pack: Callable[[object], bytes] = msgpack.packb
        number = 0
        while (item := self._waiting.get()) is not None:
            name, event = item
            topic = self._topic.replace("{model}", name)
            batch = pack([time.time(), [event], _RANK])
            self._socket.send_multipart([topic.encode(), number.to_bytes(8, "big"), batch])
            number += 1
        self._context.destroy(linger=1000)


def _hash(key: bytes) -> int:
    return int.from_bytes(key[:8], "big")
