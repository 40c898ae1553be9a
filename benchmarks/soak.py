"""Minutes of random load on the asyncio engine, with readers that leave and runs that fail: nothing leaks or hangs.

    python -m benchmarks.soak [--minutes 10] [--model FOLDER] [--clients 24]

Clients submit prompts (some with shared beginnings) and read; one in five leaves early, some have deadlines, some read
slowly. One run of the graph in 150 raises. Printed every half minute: resident memory, requests by how they ended, rows
in use. At the end every request has ended exactly once, every row is free, and memory has not grown since warm-up.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections import Counter
from pathlib import Path

import psutil

import genai
from genai.config import GenerationConfig
from genai.engine.async_engine import AsyncEngine
from genai.engine.engine import Request
from genai.errors import GraphRunError
from genai.llm import LLM
from genai.writer import TextWriter

FAILURES = 1 / 150
LEAVES = 0.2
REPORT_SECONDS = 30.0


class Load:
    """What the clients do and what became of it."""

    def __init__(self, llm: LLM, seconds: float) -> None:
        self._llm = llm
        self._ends = time.monotonic() + seconds
        self.ended: Counter[str] = Counter()
        self.submitted = 0
        self._shared = [[random.Random(n).randrange(200) for _ in range(96)] for n in range(4)]

    async def client(self, engine: AsyncEngine, number: int) -> None:
        """Requests, one after another, until the time is up."""
        rng = random.Random(number)
        while time.monotonic() < self._ends:
            prompt = rng.choice(self._shared)[: rng.randint(1, 96)] + [
                rng.randrange(200) for _ in range(rng.randint(1, 80))
            ]
            settings = GenerationConfig(max_new_tokens=rng.randint(1, 60)).updated(
                ignore_eos=True, temperature=rng.choice([0, 0.8]), seed=number
            )
            timeout = rng.choice([None, None, None, 0.2])
            request = Request(prompt=prompt, config=settings, timeout=timeout, priority=rng.randint(-1, 1))
            await self._read(engine, request, rng)

    async def _read(self, engine: AsyncEngine, request: Request, rng: random.Random) -> None:
        leaves_after = rng.randint(0, 20) if rng.random() < LEAVES else None
        pause = rng.choice([0.0, 0.0, 0.0, 0.01])
        stream = engine.submit(request, TextWriter(self._llm.tokenizer, request.config))
        self.submitted += 1
        pieces = aiter(stream)
        try:
            count = 0
            async for _ in pieces:
                count += 1
                if count == leaves_after:
                    break
                if pause:
                    await asyncio.sleep(pause)
        finally:
            await pieces.aclose()  # type: ignore[attr-defined]
        while stream.sequence.finish_reason is None:  # a reader that left: its row is free within a step
            await asyncio.sleep(0.001)
        self.ended[stream.sequence.finish_reason] += 1


def inject_failures(llm: LLM) -> None:
    """Some runs of the graph raise instead of running."""
    rng, session = random.Random(0), llm._runner._session
    run = session.run

    def failing(binding: object) -> None:
        if rng.random() < FAILURES:
            raise GraphRunError("injected failure")
        run(binding)  # type: ignore[arg-type]

    session.run = failing  # type: ignore[method-assign]


async def report(load: Load, llm: LLM, resident: list[int]) -> None:
    """Memory and counts, every half minute."""
    while True:
        resident.append(psutil.Process().memory_info().rss)
        rows = llm._runner.cache.rows
        llm._runner.cache.check_integrity()
        print(
            f"{resident[-1] / 1e6:8.1f} MB  {load.submitted} submitted  {dict(load.ended)}  {len(rows)} rows",
            flush=True,
        )
        await asyncio.sleep(REPORT_SECONDS)


async def soak(llm: LLM, minutes: float, num_clients: int) -> list[int]:
    """Run the load; returns resident memory over time. Raises: AssertionError for a leak or a stuck request."""
    inject_failures(llm)
    engine, load, resident = AsyncEngine(llm.engine), Load(llm, minutes * 60), []
    reporter = asyncio.create_task(report(load, llm, resident))
    clients = [load.client(engine, number) for number in range(num_clients)]
    await asyncio.wait_for(asyncio.gather(*clients), minutes * 60 + 60)
    reporter.cancel()
    assert await engine.drain(10), "a request is stuck"
    engine.close()
    assert llm._runner.cache.rows == (), "a row leaked"
    assert sum(load.ended.values()) == load.submitted, "a request never ended"
    resident.append(psutil.Process().memory_info().rss)
    print(f"{resident[-1] / 1e6:8.1f} MB  {load.submitted} submitted  {dict(load.ended)}  no row left, none stuck")
    return resident


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    options = parser.parse_args()
    # Too small for eight rows, so that some are preempted; a prefix cache that is soon full, so that memory is flat.
    source = Path(options.model) if Path(options.model).exists() else options.model
    with genai.load(
        source, max_batch=8, max_seq_len=256, kv_cache_bytes=cache_bytes(options.model), prefix_cache_bytes=16 * 2**20
    ) as llm:
        resident = asyncio.run(soak(llm, options.minutes, options.clients))
    warm = resident[min(2, len(resident) - 1)]
    print(f"memory grew {(resident[-1] - warm) / 1e6:.1f} MB after the first minute")


def cache_bytes(model: str) -> int:
    """Room for 800 tokens."""
    with genai.load(model, max_batch=1, max_seq_len=64) as llm:
        return 800 * llm.config.cache_bytes_per_token


if __name__ == "__main__":
    main()
