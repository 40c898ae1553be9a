"""What neighbours cost: a cache that is too small, long prompts before short ones, rows that all grow at once.

memory  32 ragged texts on a tiny model: tokens per second with a cache of 100, 90, 80 and 60 % of what they need at
        once, against one with room for all; every round has prompts of its own
line    time to first token of short prompts, alone and while long prompts keep arriving, on the tiny model and on
        --model if it is kept here; and of an urgent prompt of three tokens behind an unimportant long one. The cache is
        written once beforehand: on a virtual machine the first write to new memory may take as long as a prompt does
rows    one boundary that 64, 128 and 256 equal rows reach at once: planning, and planning with the copies
cost    what loading measures of --model, over what it is for rows that hold tokens: a slot, and a whole step

python -m benchmarks.pressure [--only memory,line,rows,cost] [--model MODEL, or "" for the tiny one alone] [--rounds 5]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import genai
from benchmarks.engine import settings
from benchmarks.measure import interleaved, paired_ratio
from genai.config import EngineConfig
from genai.contract import uniform_caches
from genai.engine.request import Request
from genai.engine.sequence import Sequence as Text
from genai.errors import GenAIError
from genai.inspect import inspect
from genai.llm.llm import LLM
from genai.runtime.cache import KVCache
from genai.runtime.cache_shape import CacheShape
from genai.runtime.providers.cpu import CpuProvider
from genai.runtime.runner import Runner
from genai.runtime.step_cost import long_slots, measured_seconds
from tests.tiny_package import tiny_package

Row = dict[str, float]

NUM_TEXTS = 32
SHARES = (1.0, 0.9, 0.8, 0.6)
LONG = 7000


def tiny(folder: Path) -> Path:
    """A model of two layers with random weights, whose runs take next to nothing."""
    return tiny_package(folder / "tiny", max_position=8192)


def tokens_of(rng: random.Random, length: int) -> list[int]:
    return [rng.randrange(200) for _ in range(length)]


class Ragged:
    """Thirty-two texts of any length at once, in caches of different sizes."""

    def __init__(self, package: Path) -> None:
        self._package = package
        self._rng = random.Random(0)
        self._sizes = [(self._rng.randint(16, 256), self._rng.randint(32, 256)) for _ in range(NUM_TEXTS)]
        self._models: dict[str, LLM] = {}
        with self._model(4 * sum(map(sum, self._sizes))) as llm:
            self.peak = self._run(llm)[1]
        self.num_preempted = dict.fromkeys(["ample", *map(str, SHARES)], 0)

    def _model(self, num_slots: int) -> LLM:
        with LLM(self._package, EngineConfig(device="cpu", max_batch=1, max_seq_len=64)) as llm:
            num_bytes = num_slots * inspect(llm.path).cache_bytes_per_token
        return LLM(
            self._package,
            EngineConfig(device="cpu", max_batch=NUM_TEXTS, max_seq_len=1024, kv_cache_bytes=num_bytes),
        )

    def _run(self, llm: LLM) -> tuple[float, int, int]:
        """Tokens per second, the most slots that rows needed at once, and how many rows were lost."""
        prompts = [tokens_of(self._rng, length) for length, _ in self._sizes]
        started, peak = time.perf_counter(), 0
        texts = [
            llm.engine.submit(Request(prompt=prompt, config=settings(count))).first
            for prompt, (_, count) in zip(prompts, self._sizes, strict=True)
        ]
        while llm.engine.has_work:
            llm.engine.step()
            peak = max(peak, sum(text.need for text in llm.engine.running))
        seconds = time.perf_counter() - started
        num_tokens = sum(count for _, count in self._sizes)
        return num_tokens / seconds, peak, sum(text.timeline.num_preemptions for text in texts)

    def rate(self, name: str) -> float:
        """Tokens per second with an ample cache, or with such a share of what is needed at once."""
        if name not in self._models:
            share = 4.0 if name == "ample" else float(name)
            self._models[name] = self._model(int(share * self.peak))
        rate, _, self.num_preempted[name] = self._run(self._models[name])
        return rate

    def close(self) -> None:
        """Free the models."""
        for llm in self._models.values():
            llm.close()


def memory(package: Path, rounds: int) -> Row:
    """Interleaved rounds of all sizes."""
    ragged = Ragged(package)
    try:
        names = ["ample", *map(str, SHARES)]
        rates = interleaved(names, rounds + 1, ragged.rate)
    finally:
        ragged.close()
    warm = {name: values[1:] for name, values in rates.items()}
    row: Row = {"needed_at_once": ragged.peak, "ample_tokens_per_s": statistics.median(warm["ample"])}
    for name in names[1:]:
        row[f"{name} / ample"] = paired_ratio(warm[name], warm["ample"])
        row[f"{name} preempted"] = ragged.num_preempted[name]
    return row


@contextlib.contextmanager
def long_prompts(llm: LLM, rng: random.Random) -> Iterator[list[Text]]:
    """Unimportant prompts of 7,000 tokens, a further one as soon as the last has its first token; and all so far."""
    texts: list[Text] = []
    is_over = threading.Event()

    def keep_coming() -> None:
        while not is_over.is_set():
            if not texts or texts[-1].is_over:
                length = min(LONG, llm.max_seq_len - 8)
                request = Request(prompt=tokens_of(rng, length), config=settings(1), priority=1)
                texts.append(llm.loop.submit(request, None).first)
            time.sleep(0.005)

    thread = threading.Thread(target=keep_coming)
    thread.start()
    try:
        yield texts
    finally:
        is_over.set()
        thread.join()
        llm.loop.cancel(texts[-1].job)  # type: ignore[arg-type]
        llm.loop.settle()


def first_token_seconds(llm: LLM, prompt: list[int], priority: int) -> float:
    """From submission to the first token of a prompt."""
    text = llm.loop.submit(Request(prompt=prompt, config=settings(1), priority=priority), None).first
    while not text.is_over:
        time.sleep(0.0005)
    return text.timeline.first_token - text.timeline.submitted


def waits(llm: LLM, lengths: Sequence[int], priority: int) -> list[float]:
    """Times to first token of prompts that come one after another, at random moments."""
    rng = random.Random(1)
    seconds = []
    for length in lengths:
        time.sleep(rng.uniform(0.05, 0.6))
        seconds.append(first_token_seconds(llm, tokens_of(rng, length), priority))
    return seconds


def write_all(cache: KVCache) -> None:
    """Write all of an empty cache."""
    row = cache.allocate(cache.num_slots - cache.reserved_slots - cache.policy.spare)
    cache.clear_behind(row)
    cache.free(row)


def line(llm: LLM, num_prompts: int) -> Row:
    """Short prompts of the long ones' priority, and urgent ones; alone, then behind long ones."""
    llm.loop.call(lambda _: write_all(llm._runner.cache))
    rng = random.Random(0)
    lengths = [rng.randint(16, 64) for _ in range(num_prompts)]
    waits(llm, lengths[:3], 1)
    alone, urgent_alone = waits(llm, lengths, 1), statistics.median(waits(llm, [3] * 8, -1))
    with long_prompts(llm, rng) as texts:
        time.sleep(1.0)
        behind = waits(llm, lengths, 1)
        urgent = waits(llm, [3] * 8, -1)
        num_long = len(texts)
    p99 = statistics.quantiles(behind, n=100, method="inclusive")[98]
    return {
        "alone_s": statistics.median(alone),
        "behind_median_s": statistics.median(behind),
        "behind_p99_s": p99,
        "p99 / alone": p99 / statistics.median(alone),
        "urgent_alone_s": urgent_alone,
        "urgent_worst_s": max(urgent),
        "urgent / (0.6 s + 3 x alone)": max(urgent) / (0.6 + 3 * urgent_alone),
        "long_prompts": num_long,
    }


def rows(rounds: int) -> Row:
    """Rows of 1,024 tokens that grow past their capacity, all in one step."""
    row: Row = {}
    shape = CacheShape(caches=uniform_caches(2, 32), dtype="float32")
    for num_rows in (64, 128, 256):
        planning, growing = [], []
        for _ in range(rounds):
            cache = KVCache(shape, num_rows * 1400, CpuProvider(EngineConfig()))
            names = [cache.allocate(1024) for _ in range(num_rows)]
            for name in names:
                cache.extend(name, 1024)
            needs = dict.fromkeys(names, 1025)
            started = time.perf_counter()
            cache.policy.groups(needs, cache.groups, cache.num_slots)
            planning.append(time.perf_counter() - started)
            started = time.perf_counter()
            cache.reserve(needs)
            growing.append(time.perf_counter() - started)
        row[f"{num_rows}_plan_ms"] = statistics.median(planning) * 1e3
        row[f"{num_rows}_grow_ms"] = statistics.median(growing) * 1e3
    row["256 / 64"] = row["256_grow_ms"] / row["64_grow_ms"]
    return row


def step_cost(llm: LLM, rounds: int) -> Row:
    """Two and eight rows of 1,024 and 4,096 slots; slots are told by a step of rows of 64."""
    runner = llm._runner
    long = long_slots(runner)
    cost = measured_seconds(runner, long).cost(long)
    write_all(runner.cache)
    row: Row = {"slot_us": cost.slot * 1e6}
    for num_rows in (2, 8):
        steps = [64, 1024, 4096]
        times = interleaved([*map(str, steps)], rounds, lambda name, num=num_rows: full_step(runner, num, int(name)))
        short, *longer = (min(times[str(capacity)]) for capacity in steps)
        for capacity, seconds in zip(steps[1:], longer, strict=True):
            slot = (seconds - short) / (num_rows * (capacity - steps[0]))
            row[f"slot, {num_rows} rows of {capacity}"] = cost.slot / slot
            row[f"step, {num_rows} rows of {capacity}"] = cost.of(num_rows, capacity) / seconds
    return row


def full_step(runner: Runner, num_rows: int, capacity: int) -> float:
    """Seconds of a step of rows that are full with it."""
    cache = runner.cache
    length = capacity - cache.reserved_slots - cache.policy.spare
    rows = [cache.allocate(length) for _ in range(num_rows)]
    for row in rows:
        cache.assume(row, length - 1)
    started = time.perf_counter()
    runner.advance(cache.groups[0], [[0]] * num_rows)
    seconds = time.perf_counter() - started
    for row in rows:
        cache.free(row)
    return seconds


def measured(names: Sequence[str], model: str, rounds: int) -> Iterator[tuple[str, Row]]:
    """Each part's numbers as they come."""
    with tempfile.TemporaryDirectory() as folder:
        package = tiny(Path(folder))
        if "memory" in names:
            yield "memory", memory(package, rounds)
        if "rows" in names:
            yield "rows", rows(rounds)
        if "cost" in names and model:
            with genai.load(model, max_batch=8, prefix_cache_bytes=0, max_seq_len=4200) as llm:
                yield f"cost, {model}", llm.loop.call(lambda _: step_cost(llm, rounds))
        if "line" in names:
            options = {"max_batch": 8, "prefix_cache_bytes": 0, "max_seq_len": LONG + 100}
            with LLM(package, EngineConfig(device="cpu", **options)) as llm:  # type: ignore[arg-type]
                yield "line, tiny", line(llm, 40)
            if not model:
                return
            try:
                llm = genai.load(model, **options)
            except GenAIError as error:
                print(f"line, {model}: left out ({error})")
                return
            with llm:
                yield f"line, {model}", line(llm, 20)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--only", default="memory,line,rows,cost")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    results: dict[str, Row] = {}
    for name, row in measured(options.only.split(","), options.model, options.rounds):
        results[name] = row
        print(f"{name:8}", ", ".join(f"{key} {value:.3g}" for key, value in row.items()), flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
