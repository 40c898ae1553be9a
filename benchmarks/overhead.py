"""What a token costs beside the graph: choosing it, and taking it through the engine, a writer and asyncio to a reader.

choosing  a step's tokens for 32 and 128 rows of 262,144 logits, as peaked as a model's: milliseconds
delivery  steps of 32 and 128 greedy rows on a runner that answers from a script, each row read by a coroutine:
          "python": microseconds of processor time, of all threads, for each token, with a run that takes none; "between
          runs": how long the graph stands still for each token, with runs of 40 ms in which others have the interpreter

    python -m benchmarks.overhead [--only choosing,delivery] [--rounds 7] [--before CHECKOUT] [--json FILE]

With --before, another checkout is measured in the same rounds, by this file's code, and ratios are of each round.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from pathlib import Path

import numpy as np

from benchmarks.measure import interleaved, paired_ratio
from benchmarks.results import markdown_table
from genai.config import EngineConfig
from genai.contract import uniform_caches
from genai.decoding.sampler import Sampler, choose
from genai.engine.engine import Engine
from genai.engine.loop import EngineLoop
from genai.engine.prefix_cache import PrefixCache
from genai.engine.scheduler import Limits
from genai.engine.streams import Streams
from genai.llm.prepare import Preparer
from genai.options.generation_config import GenerationConfig
from genai.runtime.cache import KVCache
from genai.runtime.cache_shape import CacheShape
from genai.runtime.host import default_threads
from genai.runtime.providers.cpu import CpuProvider
from genai.tokenizer.tokenizer import Tokenizer

ROOT = Path(__file__).parent.parent
ROWS = (32, 128)
VOCAB_SIZE = 262_144
SPREAD = 4.7
"""The standard deviation of Gemma 3's logits."""
WAYS: dict[str, dict[str, object]] = {
    "temperature 1": {"temperature": 1.0},
    "temperature 0.7": {"temperature": 0.7},
    "top-p 0.95": {"temperature": 1.0, "top_p": 0.95},
    "temperature 0.7, top-p 0.9": {"temperature": 0.7, "top_p": 0.9},
    "temperature 2, top-p 0.95": {"temperature": 2.0, "top_p": 0.95},
    "min-p 0.05": {"temperature": 1.0, "min_p": 0.05},
    "typical-p 0.95": {"temperature": 1.0, "typical_p": 0.95},
}
RUNS = {"python": 0.0, "between runs": 0.040}
NUM_TOKENS = 60
WARM_UP = 10

Row = dict[str, float]


class ScriptedRunner:
    """A runner whose logits are there from the start: a run only takes its time."""

    vocab_size = 1024
    score_chunk = 1
    adapters = None

    def __init__(self, num_rows: int, seconds: float) -> None:
        self.cache = KVCache(
            CacheShape(caches=uniform_caches(1, 1), dtype="float32"), 2**17, CpuProvider(EngineConfig())
        )
        self.logits = self
        self.runs: list[tuple[float, float, int]] = []  # since the last prompt: begun, processor time, tokens
        self.num_runs = 0
        self._seconds = seconds
        self._script = np.random.default_rng(0).standard_normal((16, num_rows, 1, self.vocab_size)).astype(np.float32)

    def kept(self) -> nullcontext[None]:
        return nullcontext()

    def chunk(self, row: int) -> int:
        return 512

    def most_tokens(self, num_rows: int, capacity: int) -> int:
        return 1  # each prompt alone

    def prefill_chunk(self, row: int, tokens: Sequence[int]) -> np.ndarray:
        self.cache.extend(row, len(tokens))
        self.runs.clear()
        logits: np.ndarray = self._script[0, 0, 0]
        return logits

    def advance(self, group: object, tokens: Sequence[Sequence[int]]) -> np.ndarray:
        return self._ran(group.rows)  # type: ignore[attr-defined]

    def run_row(self, row: int, tokens: Sequence[int], num_logits: int) -> np.ndarray:
        own: np.ndarray = self._ran([row])[0]
        return own

    def _ran(self, rows: Sequence[int]) -> np.ndarray:
        for row in rows:
            self.cache.extend(row, 1)
        self.runs.append((time.perf_counter(), time.process_time(), len(rows)))
        self.num_runs += 1
        if self._seconds:
            time.sleep(self._seconds)
        logits: np.ndarray = self._script[self.num_runs % 16, : len(rows)]
        return logits


def choosing(num_rows: int) -> Row:
    """Milliseconds for each way; the fastest of three, of two batches in turn."""
    rng = np.random.default_rng(0)
    logits = [*(rng.standard_normal((num_rows, VOCAB_SIZE), np.float32) * np.float32(SPREAD))]
    threads = _threads()
    found: Row = {}
    for way, options in WAYS.items():
        configs = [GenerationConfig().updated(rng_seed=seed, **options).sampling_config for seed in range(num_rows)]
        samplers = [Sampler(config, [1], VOCAB_SIZE) for config in configs]
        times = []
        for _ in range(3):
            started = time.perf_counter()
            choose(samplers, logits, *threads)
            times.append(time.perf_counter() - started)
        found[way] = min(times) * 1e3
    return found


def _threads() -> tuple[object, ...]:
    try:
        from genai.decoding.threads import Threads
    except ImportError:  # another checkout has none
        return ()
    return (Threads(default_threads()),)


def delivery(num_rows: int) -> Row:
    """Microseconds for each token."""
    return {name: asyncio.run(_delivered(num_rows, seconds)) for name, seconds in RUNS.items()}


async def _delivered(num_rows: int, seconds: float) -> float:
    runner = ScriptedRunner(num_rows, seconds)
    limits = Limits(max_batch=num_rows, max_seq_len=512, prefill_chunk=512)
    engine = Engine(runner, limits, (), PrefixCache(b"", runner.cache.shape.slot_bytes, 0))  # type: ignore[arg-type]
    loop = EngineLoop(engine, runner)  # type: ignore[arg-type]
    streams, preparer = Streams(loop), _preparer(runner.vocab_size, limits.max_seq_len)
    config = GenerationConfig(max_new_tokens=NUM_TOKENS + num_rows, ignore_eos=True)
    try:
        prepared = [preparer.prepare([5, 6, 7 + number], config) for number in range(num_rows)]
        readers = [_read(streams.submit(each.request, each.writer)) for each in prepared]
        await asyncio.gather(*readers)
    finally:
        await asyncio.to_thread(loop.close)
    started, busy, counts = np.array(runner.runs).T
    reached = counts.cumsum()
    first, last = np.searchsorted(reached, [WARM_UP * num_rows, (NUM_TOKENS - WARM_UP) * num_rows]).tolist()
    spent = started[last] - started[first] - (last - first) * seconds if seconds else busy[last] - busy[first]
    return float(spent / (reached[last - 1] - reached[first - 1])) * 1e6


async def _read(stream: object) -> int:
    return sum([len(chunk.token_ids) async for chunk in stream])  # type: ignore[attr-defined]


def _preparer(vocab_size: int, max_seq_len: int) -> Preparer:
    try:
        return Preparer(_tokenizer(), vocab_size, (), max_seq_len)
    except TypeError:  # another checkout's takes no length
        return Preparer(_tokenizer(), vocab_size, ())  # type: ignore[call-arg]


def _tokenizer() -> Tokenizer:
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = [one + other for one in letters[:64] for other in letters[64:76]]
    backend = tokenizers.Tokenizer(models.BPE(vocab={text: n for n, text in enumerate(letters + pairs)}, merges=[]))
    backend.decoder = decoders.ByteLevel()
    return Tokenizer(backend, bos_token_id=None, eos_token_ids=())


PARTS = {"choosing": choosing, "delivery": delivery}


class Worker:
    """A checkout's process, which measures a part when it is asked to."""

    def __init__(self, checkout: Path) -> None:
        command = [sys.executable, str(Path(__file__).resolve()), "--worker"]
        environment = {**os.environ, "PYTHONPATH": f"{checkout}{os.pathsep}{ROOT}"}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=checkout
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate()

    def measure(self, part: str, num_rows: int) -> Row:
        """One round. Raises: RuntimeError if the process fails."""
        assert self._process.stdin is not None, "they are pipes"
        assert self._process.stdout is not None, "they are pipes"
        self._process.stdin.write(f"{part} {num_rows}\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            raise RuntimeError(f"the process that measures {part} has failed")
        row: Row = json.loads(answer)
        return row


def measured(parts: Sequence[str], rounds: int, before: Path | None) -> dict[str, list[Row]]:
    """Each part's rounds for each number of rows, and under "before …" those of the other checkout."""
    with ExitStack() as stack:
        checkouts = {"": ROOT} if before is None else {"before ": before, "": ROOT}
        workers = {name: stack.enter_context(Worker(path)) for name, path in checkouts.items()}
        jobs = {f"{name}{part} {num}": (name, part, num) for part in parts for num in ROWS for name in workers}

        def measure(job: str) -> Row:
            name, part, num = jobs[job]
            return workers[name].measure(part, num)

        return interleaved([*jobs], rounds, measure)


def as_markdown(part: str, found: dict[str, list[Row]]) -> str:
    """A line for each measure: medians for each number of rows, and the median ratio to before."""
    unit = "ms" if part == "choosing" else "µs a token"
    has_before = f"before {part} {ROWS[0]}" in found
    header = ["", *(title for num in ROWS for title in (f"{num} rows, {unit}", *(["to before"] * has_before)))]
    lines = []
    for name in found[f"{part} {ROWS[0]}"][0]:
        line = [name]
        for num in ROWS:
            values = [each[name] for each in found[f"{part} {num}"]]
            line.append(f"{statistics.median(values):.1f}")
            if has_before:
                earlier = [each[name] for each in found[f"before {part} {num}"]]
                line.append(f"x {paired_ratio(values, earlier):.2f}")
        lines.append(line)
    return f"## {part}\n\n{markdown_table(header, lines)}\n"


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default=",".join(PARTS), help="comma-separated: " + ", ".join(PARTS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--before", type=Path, help="another checkout, to compare with")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        for line in sys.stdin:
            part, num_rows = line.split()
            print(json.dumps(PARTS[part](int(num_rows))), flush=True)
        return
    parts = options.only.split(",")
    found = measured(parts, options.rounds, options.before)
    for part in parts:
        print(as_markdown(part, found), flush=True)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
