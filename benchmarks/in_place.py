"""Two proofs that the cache is updated in place.

    python -m benchmarks.in_place [MODEL] [--precision auto] [--steps 2000]

1. A decode step with 64 valid tokens takes as long under a limit of 8,192 tokens as under one of 256: what is not used
   costs nothing.
2. Memory is flat over 2,000 decode steps: nothing is allocated, nothing concatenated.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import psutil

from benchmarks.environments import ROOT
from benchmarks.measure import ratios
from benchmarks.protocol import JSON
from benchmarks.results import Cell, markdown_table
from benchmarks.rounds import Action, quiet_rounds
from benchmarks.texts import english_tokens, prompts
from genai import models
from genai.bench import WARM_UP, Stepper
from genai.config import EngineConfig

VALID_TOKENS = 64
LIMITS = (256, 8192)
STEPS_A_ROUND = 16
SAMPLES = 20


def limits_compared(package: Path, rounds: int, threads: int | None) -> Cell:
    """Seconds of decode steps over `VALID_TOKENS` tokens, under each limit, interleaved."""
    tokens = english_tokens(package)
    with ExitStack() as stack:
        steppers = {
            f"max_seq_len={limit}": stack.enter_context(
                Stepper(package, EngineConfig(max_seq_len=limit, max_batch=1, num_threads=threads))
            )
            for limit in LIMITS
        }
        (prompt,) = prompts(tokens, 1, VALID_TOKENS)
        actions = {
            name: Action(run=partial(steps_from, stepper, prompt), process_id=os.getpid())
            for name, stepper in steppers.items()
        }
        found = quiet_rounds(actions, rounds, patience=3, pause=0.05)
    return Cell(
        title=f"Decode step, {VALID_TOKENS} valid tokens", work=1, rounds=found.results, disturbance=found.disturbance
    )


def steps_from(stepper: Stepper, prompt: list[int]) -> list[float]:
    """Seconds of the steps that follow a prompt."""
    stepper.start([prompt])
    return [stepper.step().seconds for _ in range(WARM_UP + STEPS_A_ROUND)][WARM_UP:]


def memory_over_steps(package: Path, num_steps: int, threads: int | None) -> list[tuple[int, int]]:
    """(steps done, resident bytes), some times over a long decode.

    The arena is allocated at load, but the operating system hands its pages over when they are first written: a prompt
    of the full length writes them all before the first sample.
    """
    tokens, process = english_tokens(package), psutil.Process()
    limit = VALID_TOKENS + num_steps + 8
    samples: list[tuple[int, int]] = []
    with Stepper(package, EngineConfig(max_seq_len=limit, max_batch=1, num_threads=threads)) as stepper:
        stepper.start(prompts(tokens, 1, limit - 2))
        stepper.start(prompts(tokens, 1, VALID_TOKENS))
        every = max(1, num_steps // SAMPLES)
        for step in range(num_steps + 1):
            if step % every == 0:
                samples.append((step, process.memory_info().rss))
            if step < num_steps:
                stepper.step()
    return samples


def as_markdown(cell: Cell, samples: Sequence[tuple[int, int]]) -> str:
    """Both proofs as tables."""
    base, other = (f"max_seq_len={limit}" for limit in LIMITS)
    ratio = ratios(cell.medians(), base)[other]
    rows = [(name, f"{cell.median(name) * 1e3:.2f}", f"{cell.best(name) * 1e3:.2f}") for name in cell.rounds]
    first, last = samples[0][1], samples[-1][1]
    return "\n\n".join(
        (
            f"## {cell.title}\n\n" + markdown_table(("", "ms", "best ms"), rows),
            f"Ratio {ratio:.3f} (median of the rounds' own ratios; others took up to {cell.disturbance:.0%}).",
            "## Resident memory over decode steps\n\n"
            + markdown_table(("step", "MB"), [(str(step), f"{size / 1e6:.1f}") for step, size in samples]),
            f"Growth {(last - first) / 1e6:+.1f} MB over {samples[-1][0]} steps.",
        )
    )


def as_json(cell: Cell, samples: Sequence[tuple[int, int]]) -> dict[str, JSON]:
    """Both proofs as data."""
    base, other = (f"max_seq_len={limit}" for limit in LIMITS)
    return {
        "median_seconds": {name: cell.median(name) for name in cell.rounds},
        "ratio": ratios(cell.medians(), base)[other],
        "disturbance": cell.disturbance,
        "memory": [[step, size] for step, size in samples],
    }


def main(arguments: Sequence[str]) -> None:
    """Measure, print Markdown, keep JSON in benchmarks/results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.in_place")
    parser.add_argument("model", nargs="?", default="smollm2-135m-instruct")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int)
    chosen = parser.parse_args(arguments)
    package = models.package(chosen.model, precision=chosen.precision, device="cpu")
    cell = limits_compared(package, chosen.rounds, chosen.threads)
    samples = memory_over_steps(package, chosen.steps, chosen.threads)
    (ROOT / "results").mkdir(exist_ok=True)
    (ROOT / "results" / "in_place.json").write_text(json.dumps(as_json(cell, samples), indent=1))
    print(as_markdown(cell, samples))


if __name__ == "__main__":
    main(sys.argv[1:])
