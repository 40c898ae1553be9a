"""Minutes of streaming clients on a real server: nothing lost, nothing mixed up, memory flat, and what HTTP costs.

    python -m benchmarks.http_load [--minutes 5] [--clients 64] [--model MODEL] [--precision f32] [--json FILE]

Each side has processors of its own: clients the last one, the server all others. The engine's own throughput is
measured before and after the server's, in a process on the server's processors, by as many streams of the same
questions, one in five of which is left at a random place. Tokens are counted where they are made, by the metrics, in a
window that begins after a warm-up and ends before the last streams run out.

Every answer is compared with the same request alone: in f32 they are equal but for ties; in 8 bits they may part where
two tokens are about as probable, and only answers that follow another's text count. In the end SIGTERM under load: what
was accepted comes to its end, what comes later gets 503. The exit code is 1 if anything of this does not hold.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import httpx
import psutil

import genai
from genai.llm.llm import LLM

LEAVES = 0.2
"""Share of the clients' requests that hang up."""
IMPATIENCE = 0.3
"""Seconds that a client waits which leaves before its first token: most of them are in the queue then."""
NUM_PROMPTS = 48
MAX_GROWTH_MB = 30
Counted: TypeAlias = tuple[float, float]
"""Tokens, and seconds of processor time."""
_TOKENS = "genai_generated_tokens_total"
_ENGINE = {"max_batch": 8, "max_seq_len": 512}
_FINE = ("equal", "parted", "left", "status 429")
"""What may become of a request; 429: those who left still stood in the queue, and the client comes again."""
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


def leaves_after(question: Question, rng: random.Random) -> int | None:
    """After how many pieces a client leaves, 0 for one that does not wait for the first; None for one that stays."""
    return rng.randint(0, question.max_tokens) if rng.random() < LEAVES else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Tokens a second, and a second of the process's own processor time: that one holds where others run meanwhile."""

    per_second: float
    per_processor_second: float


async def in_window(
    client: Callable[[int], Awaitable[None]], count: Callable[[], Awaitable[Counted]], num_clients: int, seconds: float
) -> Rate:
    """The rate of clients that ask one question after another, after a warm-up; then they come to their ends.

    count: tokens, and the process's processor time, so far.
    """
    ends = time.monotonic() + seconds

    async def ask_again(number: int) -> None:
        while time.monotonic() < ends:
            await client(number)

    clients = [asyncio.create_task(ask_again(number)) for number in range(num_clients)]
    await asyncio.sleep(seconds / 6)
    started, (tokens, used) = time.monotonic(), await count()
    await asyncio.sleep(max(ends - time.monotonic(), 0))
    elapsed, (all_tokens, all_used) = time.monotonic() - started, await count()
    await asyncio.gather(*clients)
    made = all_tokens - tokens
    return Rate(per_second=made / elapsed, per_processor_second=made / (all_used - used))


async def engine_throughput(llm: LLM, asked: list[Question], num_clients: int, seconds: float) -> Rate:
    """The rate of as many streams, without HTTP."""
    model = genai.AsyncLLM(llm)
    rngs = [random.Random(1000 + number) for number in range(num_clients)]

    async def client(number: int) -> None:
        question = rngs[number].choice(asked)
        leaves, pieces = leaves_after(question, rngs[number]), 0
        stream = await model.submit(question.messages, max_new_tokens=question.max_tokens, temperature=0)
        if leaves == 0:
            stream.cancel()
            return
        async for _ in stream:
            pieces += 1
            if pieces == leaves:
                stream.cancel()
                return

    async def count() -> Counted:
        samples = (sample for metric in llm.metrics.registry.collect() for sample in metric.samples)
        return sum(sample.value for sample in samples if sample.name == _TOKENS), time.process_time()

    try:
        return await in_window(client, count, num_clients, seconds)
    finally:
        model.close()


def measure_engine(model: str, precision: str, num_clients: int, seconds: float) -> tuple[Rate, list[Question]]:
    """(rate, questions with their answers), in a process of its own."""
    with genai.load(model, precision=precision, **_ENGINE) as llm:
        asked = answered(llm, questions())
        return asyncio.run(engine_throughput(llm, asked, num_clients, seconds)), asked


class Server:
    """`genai serve` in a process of its own."""

    def __init__(self, model: str, precision: str, processors: list[int]) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [sys.executable, "-m", "server", model, "--port", str(self.port), "--precision", precision]
        command += [word for name, value in _ENGINE.items() for word in ("--set", f"engine.{name}={value}")]
        command += ["--set", "log_level=warning", "--set", "drain_timeout=120"]
        self.process = subprocess.Popen(command)
        psutil.Process(self.process.pid).cpu_affinity(processors)  # its threads do not exist yet
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


async def ask(
    client: httpx.AsyncClient, question: Question, asked: list[Question], tally: Tally, leaves: int | None
) -> None:
    """One streamed chat completion, read to its end or left."""
    body = {"messages": question.messages, "max_tokens": question.max_tokens, "temperature": 0, "stream": True}
    text, events, has_ended, started = "", 0, False, time.monotonic()
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        if response.status_code != 200:
            tally.outcomes[f"status {response.status_code}"] += 1
            await asyncio.sleep(float(response.headers.get("retry-after", 0)))  # as a client does
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
            if events == leaves:
                tally.outcomes["left"] += 1
                return
    tally.outcomes["lost" if not has_ended else likeness(text, question, asked)] += 1


def likeness(text: str, question: Question, asked: list[Question]) -> str:
    """How an answer compares with the one that the model gives to this question alone, and to the others."""
    if text == question.answer:
        return "equal"

    def common(other: Question) -> int:
        pairs = enumerate(zip(text, other.answer, strict=False))
        return next((place for place, (one, another) in pairs if one != another), min(len(text), len(other.answer)))

    others = max(common(each) for each in asked if each.answer != question.answer)
    return "parted" if common(question) >= max(others, 1) else "mixed up"


async def load(server: Server, asked: list[Question], num_clients: int, seconds: float) -> tuple[Tally, Rate]:
    """Clients, one request after another each; returns what became of them, and the rate."""
    tally, rngs = Tally(), [random.Random(1000 + number) for number in range(num_clients)]
    limits = httpx.Limits(max_connections=num_clients + 4)
    async with httpx.AsyncClient(base_url=server.url, timeout=None, limits=limits) as client:
        await server.wait(client)

        async def one(number: int) -> None:
            question = rngs[number].choice(asked)
            leaves = leaves_after(question, rngs[number])
            try:
                async with asyncio.timeout(IMPATIENCE if leaves == 0 else None):
                    await ask(client, question, asked, tally, leaves)
            except TimeoutError:
                tally.outcomes["left"] += 1

        async def count() -> Counted:
            lines = (await client.get("/metrics")).text.splitlines()
            used = psutil.Process(server.process.pid).cpu_times()
            return sum(float(line.split()[-1]) for line in lines if line.startswith(_TOKENS)), used.user + used.system

        async def watch() -> None:
            while True:
                await asyncio.sleep(min(10, seconds / 12))
                tally.resident.append(server.resident)

        # Every question once, as the engine alone has answered them: both begin with their prompts in the prefix cache.
        await asyncio.gather(*(ask(client, question, asked, tally, None) for question in asked))
        watching = asyncio.create_task(watch())
        rate = await in_window(one, count, num_clients, seconds)
        watching.cancel()
        await asyncio.sleep(1)
        tally.resident.append(server.resident)
        status = (await client.get("/v1/status")).json()
        tally.outcomes["stuck"] = status["running"] + status["waiting"] + len(status["rows"])
    return tally, rate


async def terminate(server: Server, asked: list[Question], num_clients: int) -> Counter[str]:
    """SIGTERM while clients stream: accepted streams end whole; returns what became of early and late requests."""
    early, late = Tally(), Tally()
    async with httpx.AsyncClient(base_url=server.url, timeout=None) as client:
        several = [asked[number % len(asked)] for number in range(num_clients // 2)]
        streams = [asyncio.create_task(ask(client, question, asked, early, None)) for question in several]
        while len(early.first_token_seconds) < min(4, len(several)):
            await asyncio.sleep(0.01)
        server.process.send_signal(signal.SIGTERM)
        await asyncio.sleep(0.3)
        for question in asked[:5]:
            try:
                await ask(client, question, asked, late, None)
            except httpx.TransportError:
                late.outcomes["refused connection"] += 1
        await asyncio.gather(*streams)
    code = await asyncio.to_thread(server.process.wait, 120)
    result = Counter({f"early, {name}": count for name, count in early.outcomes.items()})
    result.update({f"late, {name}": count for name, count in late.outcomes.items()})
    result[f"exit code {code}"] = 1
    return result


def failures(row: dict[str, object], tally: Tally, ending: Counter[str]) -> list[str]:
    """What does not hold."""
    bad = {name: count for name, count in tally.outcomes.items() if count and name not in _FINE}
    found = [f"{count} requests: {name}" for name, count in bad.items()]
    if float(str(row["ratio"])) < 0.9:
        found.append(f"throughput through HTTP is {row['ratio']:.2f} of the engine's own")
    if float(str(row["memory_growth_mb"])) > MAX_GROWTH_MB:
        found.append(f"memory grew by {row['memory_growth_mb']:.0f} MB after the warm-up")
    fine = {"early, equal", "early, parted", "late, status 503", "late, refused connection", "exit code 0"}
    return found + [f"on SIGTERM: {count} × {name}" for name, count in ending.items() if name not in fine]


def processors() -> tuple[list[int], list[int]]:
    """(the server's, the clients'): all but the last, and the last one; with a single one they share it."""
    available = sorted(os.sched_getaffinity(0))
    return available[:-1] or available, available[-1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--precision", default="f32")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    row, problems = measured(options.model, options.precision, options.clients, 60 * options.minutes)
    print(json.dumps(row, indent=2))
    if options.json:
        options.json.write_text(json.dumps(row, indent=2) + "\n")
    sys.exit("\n".join(problems) if problems else 0)


def measured(model: str, precision: str, num_clients: int, seconds: float) -> tuple[dict[str, object], list[str]]:
    """(results, what does not hold)."""
    servers, clients = processors()
    os.sched_setaffinity(0, clients)

    def engine_alone() -> tuple[Rate, list[Question]]:
        spawn = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(1, spawn, initializer=os.sched_setaffinity, initargs=(0, servers)) as process:
            return process.submit(measure_engine, model, precision, num_clients, max(seconds / 5, 10)).result()

    before, asked = engine_alone()
    print(f"engine alone: {before.per_second:.1f} tokens/s", flush=True)
    server = Server(model, precision, servers)
    try:
        tally, rate = asyncio.run(load(server, asked, num_clients, seconds))
        print(f"through HTTP: {rate.per_second:.1f} tokens/s; {dict(tally.outcomes)}", flush=True)
        ending = asyncio.run(terminate(server, asked, num_clients))
    finally:
        server.process.kill()
    after, _ = engine_alone()
    warm = max(tally.resident[: max(len(tally.resident) // 3, 1)])
    own = (before.per_second + after.per_second) / 2
    own_used = (before.per_processor_second + after.per_processor_second) / 2
    row: dict[str, object] = {
        "clients": num_clients,
        "seconds": seconds,
        "engine_tokens_per_second": [before.per_second, after.per_second],
        "http_tokens_per_second": rate.per_second,
        "ratio": rate.per_second / own,
        "ratio_by_processor_time": rate.per_processor_second / own_used,
        "outcomes": dict(tally.outcomes),
        "median_first_token_seconds": statistics.median(tally.first_token_seconds),
        "memory_growth_mb": (max(tally.resident[-3:]) - warm) / 1e6,
        "memory_mb": tally.resident[-1] / 1e6,
        "on_sigterm": dict(ending),
    }
    return row, failures(row, tally, ending)


if __name__ == "__main__":
    main()
