"""A stand-in for the server that the playground talks to: it says what a test tells it to, when the test says so."""

from __future__ import annotations

import http.server
import json
import queue
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeAlias

PAGE = Path(__file__).parents[3] / "server" / "static" / "index.html"
END = {
    "choices": [],
    "usage": {"prompt_tokens": 20, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 16}},
    "timings": {"time_to_first_token": 0.0316, "tokens_per_second": 41.25},
}

Piece: TypeAlias = str | dict[str, object] | bytes | threading.Event
"""Of a streamed answer: its text, a whole event, bytes as they are, or something to wait for before going on."""


class FakeApi(http.server.ThreadingHTTPServer):
    """Listens on loopback while a test runs.

    requests: bodies of chat requests so far, with the "Authorization" that came with each; left: the client went away
    during an answer.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/"
        self.models = {"tiny": "ready", "large": "ready"}
        self.key: str | None = None
        self.status: dict[str, object] = status()
        self.requests: list[tuple[dict[str, object], str | None]] = []
        self.left = threading.Event()
        self._answers: queue.Queue[Callable[[_Handler], None]] = queue.Queue()
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def will_stream(self, *pieces: Piece, finish_reason: str = "stop") -> None:
        """The next request is answered by these pieces, usage and an end."""
        end: list[Piece] = [event(finish_reason=finish_reason), END]
        self._answers.put(lambda handler: handler.stream([*pieces, *end], is_whole=True))

    def will_break_off(self, *pieces: Piece) -> None:
        """The next request is answered by these pieces, and then the connection ends."""
        self._answers.put(lambda handler: handler.stream(pieces, is_whole=False))

    def will_stream_forever(self, *pieces: Piece) -> None:
        """The next request is answered by these pieces, and then by comments until the client goes away."""
        self._answers.put(lambda handler: handler.stream_forever(pieces))

    def will_refuse(self, code: int, message: str, **headers: str) -> None:
        """The next request is refused."""
        self._answers.put(lambda handler: handler.send_json({"error": {"message": message}}, code, headers))

    def answer(self, handler: _Handler) -> None:
        """Do for a request what was announced."""
        self._answers.get_nowait()(handler)

    def handle_error(self, request: object, client_address: object) -> None:
        """A browser that closes its window resets connections: nothing to print."""

    def close(self) -> None:
        """Stop listening."""
        self.shutdown()
        self.server_close()
        self._thread.join()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: FakeApi
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path == "/":
            self._send(200, {"Content-Type": "text/html; charset=utf-8"}, PAGE.read_bytes())
        elif not self._is_allowed():
            self.send_json({"error": {"message": "wrong key"}}, 401)
        elif self.path == "/v1/models":
            self.send_json({"data": [{"id": name, "state": state} for name, state in self.server.models.items()]})
        elif self.path == "/v1/status":
            self.send_json(self.server.status)
        else:
            self.send_json({"error": {"message": "no such path"}}, 404)

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append((body, self.headers["Authorization"]))
        if self._is_allowed():
            self.server.answer(self)
        else:
            self.send_json({"error": {"message": "wrong key"}}, 401)

    def stream(self, pieces: Iterable[Piece], *, is_whole: bool) -> None:
        self._send(200, {"Content-Type": "text/event-stream"}, b"")
        for piece in pieces:
            if isinstance(piece, threading.Event):
                piece.wait(60)
            elif isinstance(piece, bytes):
                self.wfile.write(piece)
                time.sleep(0.001)  # so that most of them travel alone
            else:
                self._data(json.dumps(event(content=piece) if isinstance(piece, str) else piece))
        if is_whole:
            self._data("[DONE]")

    def stream_forever(self, pieces: Iterable[Piece]) -> None:
        self.stream(pieces, is_whole=False)
        try:
            while not self.server.left.wait(0.005):
                self.wfile.write(b": still here\n\n")
        except ConnectionError:
            self.server.left.set()

    def send_json(self, value: object, code: int = 200, headers: dict[str, str] | None = None) -> None:
        named = {name.replace("_", "-"): text for name, text in (headers or {}).items()}
        self._send(code, {"Content-Type": "application/json", **named}, json.dumps(value).encode())

    def _is_allowed(self) -> bool:
        return self.server.key is None or self.headers["Authorization"] == f"Bearer {self.server.key}"

    def _data(self, text: str) -> None:
        self.wfile.write(f"data: {text}\n\n".encode())

    def _send(self, code: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


def status(
    *rows: tuple[int, int], running: int = 0, waiting: int = 0, hits: int = 0, condition: str = "ready"
) -> dict[str, object]:
    """What `/v1/status` says. rows: valid length and capacity of each."""
    return {
        "status": condition,
        "running": running,
        "waiting": waiting,
        "rows": [{"valid": valid, "capacity": capacity} for valid, capacity in rows],
        "tokens_per_second": 31.25,
        "cache": {"used_bytes": 46_080 * sum(valid for valid, _ in rows), "total_bytes": 188_743_680},
        "prefix_cache": {"hits": hits, "prompt_tokens": 2000, "bytes": 1_474_560},
    }


def event(*, content: str | None = None, finish_reason: str | None = None) -> dict[str, object]:
    """A piece of a chat completion."""
    delta = {} if content is None else {"content": content}
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": finish_reason}]}
