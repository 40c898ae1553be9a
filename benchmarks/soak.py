"""Minutes of random load from coroutines, with readers that leave and runs that fail: nothing leaks or hangs.

    python -m benchmarks.soak [--minutes 10] [--model MODEL] [--clients 24]

Clients submit prompts (some with shared beginnings, some the same again) and read. Some leave early, drop their stream
unread, are too slow for their text, or set a deadline. One run of the graph in 150 raises an error that ends those in
it, one in 5,000 an error that nobody foresaw, which ends all. Printed every half minute: resident memory, requests by
how they ended, what was preempted, paused and found in the prefix cache, rows in use. In f32 every greedy text is
compared with the last one of its prompt. At the end every request has ended and every row is free.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import random
import time
from collections import Counter
from dataclasses import dataclass, field

import psutil

import genai
from genai.engine.request import Request
from genai.engine.sequence import Sequence
from genai.engine.streams import Stream, Streams
from genai.errors import GenAIError, GraphRunError
from genai.inspect import inspect
from genai.llm.llm import LLM
from genai.llm.results import Chunk
from genai.llm.writer import JobWriter, TextWriter
from genai.options.generation_config import GenerationConfig

FAILURES = 1 / 150
SURPRISES = 1 / 5000
CHECKS = 1 / 10
LEAVES = 0.2
DROPS = 0.05
REPORT_SECONDS = 30.0
NUM_SLOTS = 800
"""Too few for eight rows, so that some are preempted."""


@dataclass(slots=True)
class Load:
    """What the clients do and what became of it."""

    llm: LLM
    seconds: float
    submitted: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    texts: dict[tuple[int, ...], list[int]] = field(default_factory=dict)
    shared: list[list[int]] = field(
        default_factory=lambda: [[random.Random(n).randrange(200) for _ in range(96)] for n in range(4)]
    )

    async def client(self, streams: Streams, number: int) -> None:
        """Requests, one after another, until the time is up."""
        rng, ends = random.Random(number), time.monotonic() + self.seconds
        while time.monotonic() < ends:
            request = self._request(rng)
            stream = streams.submit(request, JobWriter([TextWriter(self.llm.tokenizer.detokenizer(), request.config)]))
            self.submitted += 1
            sequence, is_dropped = stream.job.first, rng.random() < DROPS
            if not is_dropped:
                await self._read(stream, rng)
            del stream
            while sequence.finish_reason is None:  # a reader that left: its row is free within a step
                await asyncio.sleep(0.001)
            self._account(sequence)

    def _request(self, rng: random.Random) -> Request:
        known = rng.random() < 0.3
        tail = [rng.randrange(200) for _ in range(rng.randint(1, 80))]
        prompt = self.shared[rng.randrange(4)][: 8 * rng.randint(1, 12)] + ([] if known else tail)
        options = {"temperature": 0} if known else {"temperature": rng.choice([0, 0.8]), "seed": rng.randrange(100)}
        config = GenerationConfig(max_new_tokens=rng.choice([150, rng.randint(1, 60)])).updated(
            ignore_eos=True, **options
        )
        timeout = rng.choice([None, None, None, 0.3])
        return Request(prompt=prompt, config=config, timeout=timeout, priority=rng.randint(-1, 1))

    async def _read(self, stream: Stream[Chunk], rng: random.Random) -> None:
        leaves_after = rng.randint(0, 20) if rng.random() < LEAVES else None
        late, pause = rng.choice([0, 0, 0, 0, 0, 0, 0, 1.0]), rng.choice([0, 0, 0, 0.03])
        count, was_paused = 0, False
        await asyncio.sleep(late)
        with contextlib.suppress(GenAIError):  # an injected failure
            async for _ in stream:
                count += 1
                if count == leaves_after:
                    break
                was_paused |= stream.job.first.is_paused
                if pause:
                    await asyncio.sleep(pause)
        self.seen["paused"] += was_paused

    def _account(self, sequence: Sequence) -> None:
        assert sequence.finish_reason is not None
        self.ended[sequence.finish_reason] += 1
        self.seen["preempted"] += sequence.timeline.num_preemptions
        self.seen["cached"] += sequence.num_cached > 0
        is_greedy = not sequence.config.sampling_config.do_sample
        if is_greedy and self.llm.config.provenance.precision == "f32":
            prompt, new = tuple(sequence.tokens[: sequence.num_prompt]), sequence.generated
            known = self.texts.get(prompt, new)
            assert known[: len(new)] == new[: len(known)], "a text differs from the one before"
            self.seen["compared"] += prompt in self.texts
            if len(self.texts) < 200:
                self.texts[prompt] = max(known, new, key=len)


def inject_failures(llm: LLM, *, failures: float, surprises: float, checks: float) -> None:
    """Some runs of the graph raise instead of running; before some the cache is checked. All are shares of the runs."""
    rng, session = random.Random(0), llm._runner._session
    run = session.run

    def failing(binding: object) -> None:
        luck = rng.random()
        if luck < surprises:
            raise RuntimeError("injected surprise")
        if luck < failures:
            raise GraphRunError("injected failure")
        if luck > 1 - checks:
            llm._runner.cache.check_integrity()
        run(binding)  # type: ignore[arg-type]

    session.run = failing  # type: ignore[method-assign]


async def report(load: Load, resident: list[int]) -> None:
    """Memory and counts, every half minute."""
    started = time.monotonic()
    while True:
        resident.append(psutil.Process().memory_info().rss)
        num_rows = len(load.llm._runner.cache.rows)
        print(
            f"{time.monotonic() - started:6.0f} s  {resident[-1] / 1e6:8.1f} MB  {load.submitted} submitted  "
            f"{dict(load.ended)}  {dict(load.seen)}  {num_rows} rows",
            flush=True,
        )
        await asyncio.sleep(REPORT_SECONDS)


async def soak(llm: LLM, seconds: float, num_clients: int) -> tuple[Load, list[int]]:
    """Run the load; returns it and resident memory over time. Raises: AssertionError for a leak or a stuck request."""
    inject_failures(llm, failures=FAILURES, surprises=SURPRISES, checks=CHECKS)
    streams, load, resident = Streams(llm.loop), Load(llm, seconds), []
    reporter = asyncio.create_task(report(load, resident))
    clients = [load.client(streams, number) for number in range(num_clients)]
    await asyncio.wait_for(asyncio.gather(*clients), seconds + 60)
    reporter.cancel()
    assert await streams.drain(10), "a request is stuck"
    streams.close()
    assert llm._runner.cache.rows == (), "a row leaked"
    assert sum(load.ended.values()) == load.submitted, "a request never ended"
    load.texts.clear()
    gc.collect()
    resident.append(psutil.Process().memory_info().rss)
    print(
        f"{resident[-1] / 1e6:8.1f} MB  {load.submitted} submitted  {dict(load.ended)}  {dict(load.seen)}  "
        "no row left, none stuck"
    )
    return load, resident


def load_model(model: str) -> LLM:
    """With an arena that is too small, and a prefix cache that is soon full, so that memory should be flat."""
    with genai.load(model, max_batch=1, max_seq_len=64) as llm:
        kv_cache_bytes = NUM_SLOTS * inspect(llm.path).cache_bytes_per_token
    return genai.load(model, max_batch=8, max_seq_len=256, kv_cache_bytes=kv_cache_bytes, prefix_cache_bytes=16 * 2**20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    options = parser.parse_args()
    logging.disable(logging.CRITICAL)  # every injected failure is logged
    with load_model(options.model) as llm:
        _, resident = asyncio.run(soak(llm, 60 * options.minutes, options.clients))
    warm = resident[min(2, len(resident) - 1)]
    print(f"memory grew {(resident[-1] - warm) / 1e6:.1f} MB after the first minute")


if __name__ == "__main__":
    main()
