"""An hour of random load on a real server that is short of memory: nobody is harmed by a neighbour, and memory is flat.

    python -m benchmarks.http_soak [--minutes 60] [--clients 64] [--json FILE]

The model is SmolLM2 in float32 with one token whose embedding overflows, so that the logits of its row are not finite.
The cache holds 60 % of what the rows need at once, and one run of the graph in a thousand fails. Clients stream
answers and compare each with the same request alone; a fifth leave, one in twenty sends the token that overflows, after
tokens that others send too, one in fifty a prompt that is too long.

Exit code 1 if an answer was lost, stuck or mixed up, if a failure was told to somebody whom it is none of, or if memory
grew after the first ten minutes (a sixth of the time).
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import shutil
import socket
import statistics
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import psutil

import genai
from benchmarks.hf_folder import write_hf_folder
from benchmarks.http_load import Question, answered, likeness, questions
from benchmarks.soak import inject_failures
from genai import models
from genai.inspect import inspect
from genai.progress import Progress

MODEL = "smollm2-135m-instruct"
POISON = 14
"""A token that no text of ours has: its embedding is made infinite."""
LEAVES, POISONS, TOO_LONG = 0.2, 0.05, 0.02
FAILURES = 1 / 1000
CHECKS = 1 / 100
"""Of the runs of the graph: those that fail, and those before which the cache is checked."""
MAX_BATCH, MAX_SEQ_LEN = 16, 512
MAX_GROWTH_MB = 30
TOKENS_OF_A_ROW = 112
"""What a question with its answer takes at most here, in whole steps of capacity."""


@dataclass(slots=True)
class Tally:
    """What became of the clients' requests, what was not as it must be, and resident bytes over time."""

    outcomes: Counter[str] = field(default_factory=Counter)
    wrong: Counter[str] = field(default_factory=Counter)
    first_token_seconds: list[float] = field(default_factory=list)
    resident: list[tuple[float, int]] = field(default_factory=list)


def poisoned_folder(folder: Path) -> Path:
    """SmolLM2 as a checkpoint whose token POISON overflows; the head is a tensor of its own and stays as it was."""
    from safetensors.numpy import load_file, save_file

    write_hf_folder(models.pull(MODEL), folder)
    tensors = load_file(folder / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    tensors["model.embed_tokens.weight"][POISON] = np.inf
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "tie_word_embeddings": False}))
    return folder


def serve(package: str, port: int) -> None:
    """In a process of its own: the server, over a model some of whose runs fail."""
    from server.loading import Room, load_model
    from server.models import ModelPool
    from server.process import DrainingServer
    from server.settings import ModelSettings, Settings

    def failing(name: str, model: ModelSettings, settings: Settings, progress: Progress, room: Room) -> genai.AsyncLLM:
        loaded = load_model(name, model, settings, progress, room)
        inject_failures(loaded.llm, failures=FAILURES, surprises=0, checks=CHECKS)
        return loaded

    bytes_per_token = inspect(Path(package)).cache_bytes_per_token
    engine = {
        "max_batch": MAX_BATCH,
        "max_seq_len": MAX_SEQ_LEN,
        "kv_cache_bytes": int(0.6 * MAX_BATCH * TOKENS_OF_A_ROW) * bytes_per_token,
        "prefix_cache_bytes": 32 * 2**20,
    }
    table = {"models": {"soak": {"source": package}}, "port": port, "engine": engine, "log_level": "error"}
    settings = Settings.model_validate(table)
    DrainingServer(settings, ModelPool(settings, load=failing)).run()


class Clients:
    """Requests, one after another, until the time is up."""

    def __init__(self, http: httpx.AsyncClient, asked: list[Question], seconds: float) -> None:
        self._http, self._asked, self._ends = http, asked, time.monotonic() + seconds
        self._ids: dict[str, list[int]] = {}
        self.tally = Tally()

    async def client(self, number: int) -> None:
        """One client's requests."""
        rng = random.Random(number)
        while time.monotonic() < self._ends:
            luck, question = rng.random(), rng.choice(self._asked)
            if luck < POISONS:
                await self._send_poison(question)
            elif luck < POISONS + TOO_LONG:
                await self._send_too_long(question)
            else:
                await self._ask(question, rng)

    async def _ask(self, question: Question, rng: random.Random) -> None:
        """A streamed answer, read to its end or left."""
        leaves = rng.randint(0, question.max_tokens) if rng.random() < LEAVES else None
        patience = rng.uniform(0, 1) if leaves == 0 else None
        try:
            async with asyncio.timeout(patience):
                outcome = await self._read(question, leaves)
        except TimeoutError:
            outcome = "left"
        self._count(outcome, {"equal", "parted", "left", "failed", "429"})

    async def _read(self, question: Question, leaves: int | None) -> str:
        body = {"messages": question.messages, "max_tokens": question.max_tokens, "temperature": 0, "stream": True}
        text, pieces, started = "", 0, time.monotonic()
        async with self._http.stream("POST", "/v1/chat/completions", json=body) as response:
            if response.status_code != 200:
                await response.aread()
                return await self._refused(response)
            async for line in response.aiter_lines():
                if line == "data: [DONE]":
                    return likeness(text, question, self._asked)
                data = json.loads(line[6:]) if line.startswith("data: {") else {}
                if "error" in data:
                    return outcome_of(data["error"])
                content = data["choices"][0]["delta"].get("content") if data.get("choices") else None
                if content and not pieces:
                    self.tally.first_token_seconds.append(time.monotonic() - started)
                text, pieces = text + (content or ""), pieces + bool(content)
                if leaves is not None and pieces >= leaves:
                    return "left"
        return "lost"

    async def _send_poison(self, question: Question) -> None:
        """The tokens of a question, which others ask too, and then the one that overflows."""
        ids = self._ids.get(question.text)
        if ids is None:
            answer = await self._http.post("/tokenize", json={"messages": question.messages})
            ids = self._ids[question.text] = answer.json()["tokens"]
        body = {"prompt": [*ids, POISON, *ids[:8]], "max_tokens": 8, "temperature": 0}
        response = await self._http.post("/v1/completions", json=body)
        outcome = "an answer to the poison" if response.status_code == 200 else await self._refused(response)
        self._count(outcome, {"not finite", "failed", "429"})

    async def _send_too_long(self, question: Question) -> None:
        body = {"messages": [{"role": "user", "content": question.text * MAX_SEQ_LEN}], "max_tokens": 8}
        response = await self._http.post("/v1/chat/completions", json=body)
        outcome = "an answer to one too long" if response.status_code == 200 else await self._refused(response)
        self._count(outcome, {"too long"})

    async def _refused(self, response: httpx.Response) -> str:
        if response.status_code == 429:
            await asyncio.sleep(float(response.headers.get("retry-after", 1)))  # as a client does
            return "429"
        return outcome_of(response.json()["error"])

    def _count(self, outcome: str, expected: set[str]) -> None:
        self.tally.outcomes[outcome] += 1
        if outcome not in expected:
            self.tally.wrong[outcome] += 1


def outcome_of(error: dict[str, str]) -> str:
    """What an error is about."""
    names = {"internal_error": "failed", "context_length_exceeded": "too long", "not_finite": "not finite"}
    return names.get(error["code"], f"{error['code']}: {error['message'][:80]}")


async def watch(http: httpx.AsyncClient, process: psutil.Process, tally: Tally) -> None:
    """Memory every ten seconds, and all a line each minute."""
    started = time.monotonic()
    while True:
        tally.resident.append((time.monotonic() - started, process.memory_info().rss))
        if len(tally.resident) % 6 == 1:
            rows = len((await http.get("/v1/status")).json()["rows"])
            seconds, size = tally.resident[-1]
            print(f"{seconds:6.0f} s  {size / 1e6:7.1f} MB  {rows} rows  {dict(tally.outcomes)}", flush=True)
        await asyncio.sleep(10)


async def soak(url: str, process: psutil.Process, asked: list[Question], num_clients: int, seconds: float) -> Tally:
    """Run the load; at its end nothing runs, waits or holds a row."""
    limits = httpx.Limits(max_connections=num_clients + 4)
    async with httpx.AsyncClient(base_url=url, timeout=None, limits=limits) as http:
        while not await is_ready(http):
            assert process.is_running(), "the server has ended"
            await asyncio.sleep(0.3)
        clients = Clients(http, asked, seconds)
        watching = asyncio.create_task(watch(http, process, clients.tally))
        await asyncio.wait_for(asyncio.gather(*map(clients.client, range(num_clients))), seconds + 180)
        watching.cancel()
        await asyncio.sleep(1)
        status = (await http.get("/v1/status")).json()
        clients.tally.wrong["stuck"] += status["running"] + status["waiting"] + len(status["rows"])
        clients.tally.resident.append((seconds, process.memory_info().rss))
    return clients.tally


async def is_ready(http: httpx.AsyncClient) -> bool:
    """Whether the model is loaded."""
    try:
        return (await http.get("/ready")).status_code == 200
    except httpx.TransportError:
        return False


def alone(package: str) -> list[Question]:
    """In a process of its own: each question with the answer that it gets alone."""
    with genai.load(package, max_batch=1, max_seq_len=MAX_SEQ_LEN) as llm:
        return answered(llm, questions())


def measured(num_clients: int, seconds: float) -> tuple[dict[str, object], list[str]]:
    """(results, what does not hold)."""
    folder = Path(tempfile.mkdtemp(prefix="http-soak-"))
    spawn = multiprocessing.get_context("spawn")
    try:
        package = str(models.build(poisoned_folder(folder / "checkpoint"), folder / "package", precision="f32"))
        with spawn.Pool(1) as pool:
            asked = pool.apply(alone, (package,))
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        server = spawn.Process(target=serve, args=(package, port), daemon=True)
        server.start()
        process = psutil.Process(server.pid)
        tally = asyncio.run(soak(f"http://127.0.0.1:{port}", process, asked, num_clients, seconds))
        server.terminate()
        server.join(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return results(tally, num_clients, seconds, server.exitcode)


def results(
    tally: Tally, num_clients: int, seconds: float, exit_code: int | None
) -> tuple[dict[str, object], list[str]]:
    """(results, what does not hold)."""
    early = [size for at, size in tally.resident if at <= seconds / 6]
    late = [size for at, size in tally.resident if at > seconds / 6]
    growth = (statistics.median(late[-6:]) - max(early)) / 1e6
    row: dict[str, object] = {
        "clients": num_clients,
        "seconds": seconds,
        "outcomes": dict(tally.outcomes),
        "wrong": dict(+tally.wrong),
        "median_first_token_seconds": statistics.median(tally.first_token_seconds),
        "memory_mb": late[-1] / 1e6,
        "memory_growth_mb": growth,
        "exit_code": exit_code,
    }
    problems = [f"{count} × {name}" for name, count in (+tally.wrong).items()]
    if growth > MAX_GROWTH_MB:
        problems.append(f"memory grew by {growth:.0f} MB after the first sixth")
    if exit_code != 0:
        problems.append(f"the server ended with {exit_code}")
    return row, problems


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    row, problems = measured(options.clients, 60 * options.minutes)
    print(json.dumps(row, indent=2))
    if options.json:
        options.json.write_text(json.dumps(row, indent=2) + "\n")
    sys.exit("\n".join(problems) if problems else 0)


if __name__ == "__main__":
    main()
