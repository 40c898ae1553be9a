"""What adapters cost a decode step: in use, and where there is only room for them.

    python -m benchmarks.adapters [MODEL] [--precision auto] [--rank 16] [--rows 8] [--adapters 4]

Random adapters of one rank on all products; the rows use them by turns. MODEL: a known name, a .gguf file
(`benchmarks.random_model` writes some), or a folder.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.environments import ROOT
from benchmarks.measure import ratios
from benchmarks.protocol import JSON
from benchmarks.results import Cell, markdown_table
from benchmarks.rounds import Action, quiet_rounds
from genai import models
from genai.config import PRECISIONS, EngineConfig, ModelConfig
from genai.models.adapters import Room
from genai.runtime.adapters import ScaledAdapter
from genai.runtime.load import load_runner

PLAIN, UNUSED, USED = "no room for adapters", "room, none in use", "in use"
TARGETS = {UNUSED: (PLAIN, 1.03), USED: (UNUSED, 1.15)}
"""What each is compared with, and at most so many times its step is wanted."""
VALID_TOKENS = 64
_STEPS = 16


class Rows:
    """Rows of a loaded package, decoded together; adapters: random ones, which `use` gives them by turns."""

    def __init__(self, package: Path, num_rows: int, num_adapters: int, threads: int | None) -> None:
        config = EngineConfig(max_seq_len=256, max_batch=num_rows, num_threads=threads, prefix_cache_bytes=0)
        self._runner = load_runner(package, ModelConfig.read(package), config).runner
        cache = self._runner.cache
        self._rows = [cache.allocate(VALID_TOKENS + _STEPS + 1) for _ in range(num_rows)]
        prompt = np.random.default_rng(1).integers(3, self._runner.vocab_size, VALID_TOKENS).tolist()
        for row in self._rows:
            self._runner.prefill(row, prompt)
        self._adapters = [self._random(number) for number in range(num_adapters)]

    def _random(self, seed: int) -> ScaledAdapter:
        memory, rng = self._runner.adapters, np.random.default_rng(seed)
        assert memory is not None, "a package with room"
        matrices = {
            each.name: (
                rng.standard_normal((each.num_inputs, memory.room.rank), np.float32) * np.float32(0.01),
                rng.standard_normal((memory.room.rank, each.num_outputs), np.float32) * np.float32(0.01),
            )
            for each in memory.room.products
        }
        return ScaledAdapter(memory.load(memory.fitted(str(seed), b"", matrices), ()))

    def steps(self, *, has_adapters: bool) -> list[float]:
        """Seconds of decode steps, which are forgotten again."""
        runner = self._runner
        if runner.adapters is not None:
            for index, row in enumerate(self._rows):
                adapter = self._adapters[index % len(self._adapters)] if has_adapters else None
                runner.adapters.use(row, adapter)
        seconds = []
        for _ in range(_STEPS):
            started = time.perf_counter()
            runner.advance(runner.cache.groups[0], [[5]] * len(self._rows))
            seconds.append(time.perf_counter() - started)
        for row in self._rows:
            runner.cache.truncate(row, VALID_TOKENS)
            runner.cache.reserve({row: VALID_TOKENS + _STEPS + 1})
        return seconds[1:]


def compared(args: argparse.Namespace) -> Cell:
    """Seconds of decode steps, interleaved."""
    room = Room(lora_slots=args.adapters, max_rank=args.rank)
    plain, roomy = (
        models.package(args.model, precision=args.precision, device="cpu", room=each) for each in (None, room)
    )
    without, with_room = Rows(plain, args.rows, 0, args.threads), Rows(roomy, args.rows, args.adapters, args.threads)
    actions = {
        PLAIN: partial(without.steps, has_adapters=False),
        UNUSED: partial(with_room.steps, has_adapters=False),
        USED: partial(with_room.steps, has_adapters=True),
    }
    process = os.getpid()
    found = quiet_rounds(
        {name: Action(run=run, process_id=process) for name, run in actions.items()},
        args.rounds,
        patience=3,
        pause=0.05,
    )
    title = f"{args.model}, {args.precision}: {args.rows} rows, {args.adapters} adapters of rank {args.rank}"
    return Cell(title=title, work=1, rounds=found.results, disturbance=found.disturbance)


def ratios_of(cell: Cell) -> dict[str, float]:
    """Each step that has a target, as a ratio to what it is compared with."""
    return {name: ratios(cell.medians(), base)[name] for name, (base, _) in TARGETS.items()}


def as_markdown(cell: Cell) -> str:
    """The steps as a table, and their ratios."""
    rows = [(name, f"{cell.median(name) * 1e3:.2f}", f"{cell.best(name) * 1e3:.2f}") for name in cell.rounds]
    told = "; ".join(
        f"{name}: {ratio:.3f} × {TARGETS[name][0]}, at most {TARGETS[name][1]} wanted"
        for name, ratio in ratios_of(cell).items()
    )
    others = f"others took up to {cell.disturbance:.0%} of the processors"
    return f"## {cell.title}\n\n{markdown_table(('', 'ms', 'best ms'), rows)}\n\n{told} ({others})."


def as_json(cell: Cell) -> dict[str, JSON]:
    """The steps as data."""
    return {
        "median_seconds": {name: cell.median(name) for name in cell.rounds},
        "ratios": dict(ratios_of(cell)),
        "disturbance": cell.disturbance,
    }


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    found.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    found.add_argument("--precision", choices=PRECISIONS, default="auto")
    for name, default in {"rank": 16, "rows": 8, "adapters": 4, "rounds": 9}.items():
        found.add_argument(f"--{name}", type=int, default=default)
    found.add_argument("--threads", type=int)
    return found


def main() -> None:
    """Build, measure, print Markdown, keep JSON in benchmarks/results."""
    cell = compared(parser().parse_args())
    (ROOT / "results").mkdir(exist_ok=True)
    (ROOT / "results" / "adapters.json").write_text(json.dumps(as_json(cell), indent=1), encoding="utf-8")
    print(as_markdown(cell))


if __name__ == "__main__":
    main()
