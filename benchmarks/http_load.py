"""Minutes of streaming clients on a real server: nothing lost, nothing mixed up, memory flat, and what HTTP costs.

    python -m benchmarks.http_load [--minutes 5] [--clients 64] [--model MODEL] [--precision f32] [--json FILE]

First the engine alone, in this process, with the same number of streams (its own throughput), and every prompt's text
alone. Then `genai serve` in a process of its own, and clients that stream chat completions over loopback, one in five
of which hangs up at a random place. Every answer is compared with the same request alone: in f32 they are equal but for
ties; in 8 bits they may part where two tokens are about as probable, and only answers that hold another's text count.
In the end SIGTERM under load: what was accepted comes to its end, what comes later gets 503.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil

import genai
from genai.llm import LLM

LEAVES = 0.2
"""Share of the clients' requests that hang up."""
NUM_PROMPTS = 48
_TOPICS = ("rivers", "bread", "stars", "chess", "rain", "tea", "bridges", "maps")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A prompt, how long its answer may be, and what the model says to it alone."""

    text: str
    max_tokens: int
    answer: str = ""

    @property
    def messages(self) -> list[dict[str, str]]:
        return [{"role": "user", "content": self.text}]


@dataclass(slots=True)
class Tally:
    """What became of the clients' requests."""

    outcomes: Counter[str] = field(default_factory=Counter)
    first_token_seconds: list[float] = field(default_factory=list)
    resident: list[int] = field(default_factory=list)


def questions() -> list[Question]:
    rng = random.Random(0)
    return [
        Question(
            text=f"Question {number}: say something about {rng.choice(_TOPICS)} and {rng.choice(_TOPICS)}.",
            max_tokens=rng.randint(8, 48),
        )
        for number in range(NUM_PROMPTS)
    ]


def answered(llm: LLM, asked: list[Question]) -> list[Question]:
    """Each question with its answer, run alone."""
    return [
        Question(
            text=each.text,
            max_tokens=each.max_tokens,
            answer=llm.generate(each.messages, max_new_tokens=each.max_tokens, temperature=0).text,
        )
        for each in asked
    ]


async def engine_throughput(llm: LLM, asked: list[Question], num_clients: int, seconds: float) -> float:
    """Tokens a second of as many streams, without HTTP."""
    model = genai.AsyncLLM(llm)
    ends, count = time.monotonic() + seconds, 0

    async def client(number: int) -> None:
        nonlocal count
        rng = random.Random(number)
        while time.monotonic() < ends:
            question = rng.choice(asked)
            stream = await model.submit(question.messages, max_new_tokens=question.max_tokens, temperature=0)
            async for chunk in stream:
                count += len(chunk.token_ids)

    started = time.monotonic()
    try:
        await asyncio.gather(*map(client, range(num_clients)))
    finally:
        model.close()
    return count / (time.monotonic() - started)


class Server:
    """`genai serve` in a process of its own."""

    def __init__(self, model: str, precision: str) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "server", model, "--port", str(self.port), "--precision", precision]
        command += ["--max-batch", "8", "--max-seq-len", "512", "--set", "log_level=warning"]
        self.process = subprocess.Popen(command)
        self.url = f"http://127.0.0.1:{self.port}"

    @property
    def resident(self) -> int:
        return psutil.Process(self.process.pid).memory_info().rss

    async def wait(self, client: httpx.AsyncClient, seconds: float = 300) -> None:
        ends = time.monotonic() + seconds
        while time.monotonic() < ends:
            try:
                if (await client.get("/ready")).status_code == 200:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(0.3)
        raise RuntimeError("the server does not get ready")


async def ask(client: httpx.AsyncClient, question: Question, tally: Tally, rng: random.Random) -> None:
    """One streamed chat completion, read to its end or left."""
    leaves_after = rng.randint(0, question.max_tokens) if rng.random() < LEAVES else None
    body = {"messages": question.messages, "max_tokens": question.max_tokens, "temperature": 0, "stream": True}
    text, events, has_ended, started = "", 0, False, time.monotonic()
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            tally.outcomes[f"status {response.status_code}"] += 1
            return
        async for line in response.aiter_lines():
            if not line.startswith("data: "):
                continue
            if line == "data: [DONE]":
                has_ended = True
                break
            data = json.loads(line[6:])
            if "error" in data:
                tally.outcomes["error event"] += 1
                return
            events += 1
            if events == 1:
                tally.first_token_seconds.append(time.monotonic() - started)
            text += data["choices"][0]["delta"].get("content") or ""
            if events == leaves_after:
                tally.outcomes["left"] += 1
                return
    tally.outcomes["lost" if not has_ended else "equal" if text == question.answer else "different"] += 1


async def generated(client: httpx.AsyncClient) -> float:
    """Tokens that the server has generated; several may come in one event."""
    lines = (await client.get("/metrics")).text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith("genai_generated_tokens_total"))


async def load(server: Server, asked: list[Question], num_clients: int, seconds: float) -> tuple[Tally, float]:
    """Clients, one request after another each; returns what became of them, and tokens a second."""
    tally, ends = Tally(), time.monotonic() + seconds
    limits = httpx.Limits(max_connections=num_clients + 4)
    async with httpx.AsyncClient(base_url=server.url, timeout=None, limits=limits) as client:
        await server.wait(client)

        async def one(number: int) -> None:
            rng = random.Random(1000 + number)
            while time.monotonic() < ends:
                await ask(client, rng.choice(asked), tally, rng)

        async def watch() -> None:
            while True:
                tally.resident.append(server.resident)
                await asyncio.sleep(10)

        watching = asyncio.create_task(watch())
        started, before = time.monotonic(), await generated(client)
        await asyncio.gather(*map(one, range(num_clients)))
        elapsed, count = time.monotonic() - started, await generated(client) - before
        watching.cancel()
        await asyncio.sleep(1)
        tally.resident.append(server.resident)
        status = (await client.get("/v1/status")).json()
        if status["running"] or status["waiting"]:
            tally.outcomes["stuck"] += status["running"] + status["waiting"]
    return tally, count / elapsed


async def terminate(server: Server, asked: list[Question], num_clients: int) -> Counter[str]:
    """SIGTERM while clients stream: accepted streams end whole; returns what became of early and late requests."""
    early, late = Tally(), Tally()
    rng = random.Random(5)
    rng.random = lambda: 1.0  # type: ignore[method-assign]  # nobody leaves
    async with httpx.AsyncClient(base_url=server.url, timeout=None) as client:
        streams = [asyncio.create_task(ask(client, question, early, rng)) for question in asked[: num_clients // 2]]
        while len(early.first_token_seconds) < 4:
            await asyncio.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        for question in asked[:5]:
            try:
                await ask(client, question, late, rng)
            except httpx.TransportError:
                late.outcomes["refused connection"] += 1
        await asyncio.gather(*streams)
    code = await asyncio.to_thread(server.process.wait, 120)
    result = Counter({f"early, {name}": count for name, count in early.outcomes.items()})
    result.update({f"late, {name}": count for name, count in late.outcomes.items()})
    result[f"exit code {code}"] = 1
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--precision", default="f32")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    seconds = 60 * options.minutes
    with genai.load(options.model, precision=options.precision, max_batch=8, max_seq_len=512) as llm:
        asked = answered(llm, questions())
        own = asyncio.run(engine_throughput(llm, asked, options.clients, max(seconds / 5, 10)))
    print(f"engine alone: {own:.1f} tokens/s", flush=True)
    server = Server(options.model, options.precision)
    try:
        tally, rate = asyncio.run(load(server, asked, options.clients, seconds))
        ending = asyncio.run(terminate(server, asked, options.clients))
    finally:
        server.process.kill()
    warm = tally.resident[min(3, len(tally.resident) - 1)]
    row = {
        "engine_tokens_per_second": own,
        "http_tokens_per_second": rate,
        "ratio": rate / own,
        "outcomes": dict(tally.outcomes),
        "median_first_token_seconds": statistics.median(tally.first_token_seconds),
        "memory_growth_mb": (tally.resident[-1] - warm) / 1e6,
        "memory_mb": tally.resident[-1] / 1e6,
        "on_sigterm": dict(ending),
    }
    print(json.dumps(row, indent=2))
    if options.json:
        options.json.write_text(json.dumps(row, indent=2) + "\n")


if __name__ == "__main__":
    main()
