"""Two replicas on Ray against one server with the same processors: what the proxy costs, and what the router brings.

    python -m benchmarks.cluster [--model MODEL] [--rounds 20] [--seconds 30] [--clients 16] [--json FILE]

One server runs two threads, each of two replicas one. Told are: tokens a second of many streams; the time to the first
token of a short question, asked of both by turns; how much of later turns is known for 8 chats of 5 turns, with the
router and without; what a replica costs that is killed while it streams, and while it does nothing; how long a second
replica takes to come. On processors that others use meanwhile only the shares mean anything.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import signal
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx
import psutil

from benchmarks.measure import interleaved

START_SECONDS = 300
CHATS, TURNS = 8, 5
_QUESTION = "Say something about rivers."


@dataclass(slots=True, kw_only=True)
class Results:
    """Seconds, tokens a second, and shares of 1, by side."""

    tokens_per_second: dict[str, float] = field(default_factory=dict)
    first_token_seconds: dict[str, float] = field(default_factory=dict)
    proxy_seconds: float = 0.0
    cached_share: dict[str, float] = field(default_factory=dict)
    streams_lost: int = 0
    streams_kept: int = 0
    requests_after_a_kill: list[int] = field(default_factory=list)
    scale_up_seconds: float = 0.0


class Server:
    """A `genai serve` of its own, until `close`."""

    def __init__(self, model: str, *options: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = [sys.executable, "-m", "server", f"m={model}", "--port", str(port), *options]
        self.process = subprocess.Popen([*command, "--set", "log_level=warning"])
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120)
        until(self._is_ready, START_SECONDS)

    def _is_ready(self) -> bool:
        if self.process.poll() is not None:
            raise SystemExit("the server has ended: see above")
        with contextlib.suppress(httpx.TransportError):
            return self.http.get("/ready").status_code == 200
        return False

    @property
    def num_replicas(self) -> int:
        return len(self.http.get("/v1/status").json()["replicas"])

    def replicas(self) -> list[psutil.Process]:
        """The processes of replicas."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [each for each in children if "".join(each.cmdline()[:1]).startswith("ray::ServeReplica")]

    def close(self) -> None:
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60)
        self.http.close()


@contextlib.contextmanager
def serving(model: str, *options: str) -> Iterator[Server]:
    server = Server(model, *options)
    try:
        yield server
    finally:
        server.close()


def until(holds: Callable[[], bool], seconds: float) -> float:
    """How long it took. Raises: TimeoutError."""
    started = time.monotonic()
    while not holds():
        if time.monotonic() - started > seconds:
            raise TimeoutError("it does not come")
        time.sleep(0.1)
    return time.monotonic() - started


def body(messages: Sequence[dict[str, str]], max_tokens: int, **more: object) -> dict[str, object]:
    return {"model": "m", "messages": list(messages), "max_tokens": max_tokens, "temperature": 0, **more}


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def streamed(server: Server, request: dict[str, object]) -> tuple[float, bool]:
    """(seconds to the first text, whether the stream came to its end)."""
    started, first = time.monotonic(), 0.0
    last = ""
    with server.http.stream("POST", "/v1/chat/completions", json={**request, "stream": True}) as response:
        for line in response.iter_lines():
            if line.startswith("data: "):
                last = line
                if not first and '"content": "' in line and '"content": ""' not in line:
                    first = time.monotonic() - started
    return first, last == "data: [DONE]"


def throughput(server: Server, num_clients: int, seconds: float) -> float:
    """Tokens a second of clients that ask one question after another."""
    started, before = time.monotonic(), generated(server)
    with asking(server, num_clients):
        time.sleep(seconds)
    return (generated(server) - before) / (time.monotonic() - started)


@contextlib.contextmanager
def asking(server: Server, num_clients: int) -> Iterator[None]:
    """Clients that ask one question after another until the end of the block, and hear what they have asked by then."""
    over = threading.Event()

    def ask_again(number: int) -> None:
        while not over.is_set():
            text = f"{number}: {_QUESTION}"
            server.http.post("/v1/chat/completions", json=body(asked(text), 64, ignore_eos=True)).raise_for_status()

    clients = [threading.Thread(target=ask_again, args=(number,)) for number in range(num_clients)]
    for client in clients:
        client.start()
    try:
        yield
    finally:
        over.set()
        for client in clients:
            client.join()


def generated(server: Server) -> int:
    models = server.http.get("/v1/status").json()["models"]
    return sum(int(model["generated_tokens"]) for model in models.values())


def first_tokens(servers: dict[str, Server], rounds: int) -> dict[str, list[float]]:
    """Seconds to the first token of the same question, which both know, asked by turns."""
    return interleaved(list(servers), rounds, lambda name: streamed(servers[name], body(asked(_QUESTION), 2))[0])


def cached_share(server: Server) -> float:
    """How much of the prompts of later turns was known, of chats that take turns."""
    system = {"role": "system", "content": "You are a patient teacher. " * 8}
    chats = [[system, *asked(f"Chat {number}: tell me about number {number}.")] for number in range(CHATS)]
    cached = all_tokens = 0
    for turn in range(TURNS):
        for chat in chats:
            answer = server.http.post("/v1/chat/completions", json=body(chat, 24)).raise_for_status().json()
            if turn:
                cached += answer["usage"]["prompt_tokens_details"]["cached_tokens"]
                all_tokens += answer["usage"]["prompt_tokens"]
            chat += [{"role": "assistant", "content": answer["choices"][0]["message"]["content"]}, *asked("Go on.")]
    return cached / all_tokens


def kill_while_streaming(server: Server, results: Results) -> None:
    """Eight streams, and one of two replicas killed under them; then eight requests."""
    outcomes: list[bool] = []

    def read(number: int) -> None:
        request = body(asked(f"{number} {_QUESTION}"), 300, ignore_eos=True)
        try:
            outcomes.append(streamed(server, request)[1])
        except httpx.TransportError:
            outcomes.append(False)

    clients = [threading.Thread(target=read, args=(number,)) for number in range(8)]
    for client in clients:
        client.start()
    until(lambda: server.http.get("/v1/status").json()["running"] >= len(clients) // 2, 60)
    server.replicas()[0].kill()
    for client in clients:
        client.join()
    results.streams_lost, results.streams_kept = outcomes.count(False), outcomes.count(True)
    results.requests_after_a_kill += statuses(server)


def statuses(server: Server) -> list[int]:
    requests = (body(asked(f"{number}"), 2) for number in range(8))
    return [server.http.post("/v1/chat/completions", json=request).status_code for request in requests]


def run(model: str, *, rounds: int, seconds: float, num_clients: int) -> Results:
    results = Results()
    one, two = ("--threads", "2"), ("--threads", "1", "--replicas", "2")
    for name, options in (("one server", one), ("two replicas", two)):
        with serving(model, *options) as server:
            results.tokens_per_second[name] = throughput(server, num_clients, seconds)
    # One replica behind the proxy against the same without it: both idle but for the one question.
    with serving(model, "--threads", "1") as plain, serving(model, "--threads", "1", *_proxied()) as proxied:
        times = first_tokens({"direct": plain, "proxied": proxied}, rounds)
        results.first_token_seconds = {name: statistics.median(each[1:] or each) for name, each in times.items()}
        pairs = zip(times["proxied"], times["direct"], strict=True)
        results.proxy_seconds = statistics.median(slow - fast for slow, fast in pairs)
    for name in ("load", "prefix"):
        with serving(model, *two, "--set", f"cluster.routing={name}") as server:
            until(lambda server=server: server.num_replicas == 2, START_SECONDS)  # type: ignore[misc]
            results.cached_share[name] = cached_share(server)
            if name == "prefix":
                kill_while_streaming(server, results)
                until(lambda server=server: server.num_replicas == 2, START_SECONDS)  # type: ignore[misc]
                server.replicas()[0].kill()
                results.requests_after_a_kill += statuses(server)
    growing = ("--threads", "1", "--set", "cluster.max_replicas=2", "--set", "cluster.target_requests=1")
    with serving(model, *growing, "--set", "cluster.scale_up_after=1") as server, asking(server, 4):
        results.scale_up_seconds = until(lambda: server.num_replicas == 2, START_SECONDS)
    return results


def _proxied() -> Sequence[str]:
    """One replica, which there would be no Ray for otherwise."""
    return (
        "--set",
        "cluster.max_replicas=2",
        "--set",
        "cluster.min_replicas=1",
        "--set",
        "cluster.scale_up_after=3600",
    )


def table(results: Results) -> str:
    """As a page has it."""
    lines = ["| | |", "|---|---:|"]
    lines += [f"| tokens a second, {name} | {each:.0f} |" for name, each in results.tokens_per_second.items()]
    lines += [f"| first token, {name} | {1e3 * each:.0f} ms |" for name, each in results.first_token_seconds.items()]
    lines += [f"| the proxy's part of it, median of pairs | {1e3 * results.proxy_seconds:.0f} ms |"]
    lines += [f"| known of later turns, routing={name} | {each:.0%} |" for name, each in results.cached_share.items()]
    lines += [f"| of 8 streams, those lost with a killed replica | {results.streams_lost} |"]
    fine = results.requests_after_a_kill.count(200)
    lines += [f"| requests after a replica was killed, answered | {fine} of {len(results.requests_after_a_kill)} |"]
    lines += [f"| from load to a second replica | {results.scale_up_seconds:.0f} s |"]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=30)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # so that servers are ended
    results = run(given.model, rounds=given.rounds, seconds=given.seconds, num_clients=given.clients)
    print(table(results))
    if given.json:
        given.json.write_text(json.dumps(asdict(results), indent=1) + "\n")


if __name__ == "__main__":
    main()
