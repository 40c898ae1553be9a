"""What choosing tokens costs beside the decode step that it follows, on real models' logits.

    python -m benchmarks.sampling [MODEL …] [--precision auto] [--rounds 15] [--patience 3]

Every row reads a piece of English. After each decode step one way of sampling chooses for all rows, from the logits
where the graph left them, and accepts the text's own next tokens: so all ways are timed on the same logits, between
real steps. Rounds are interleaved, noisy ones measured again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.environments import ROOT
from benchmarks.measure import paired_ratio
from benchmarks.protocol import JSON
from benchmarks.results import markdown_table
from benchmarks.rounds import Action, Rounds, quiet_rounds
from benchmarks.texts import english_tokens, prompts
from genai import models
from genai.config import EngineConfig, ModelConfig
from genai.decoding.processors import BoolArray
from genai.decoding.sampler import Sampler, choose
from genai.decoding.threads import Threads
from genai.options.generation_config import GenerationConfig
from genai.runtime.host import default_threads
from genai.runtime.load import load_runner
from genai.runtime.runner import Runner

MODELS = ("smollm2-135m-instruct", "gemma-3-270m")
BATCHES = (1, 8)
NUM_PROMPT = 256
STEPS_A_ROUND = 6

EVERYTHING: Mapping[str, object] = {
    "rng_seed": 1,
    "temperature": 0.7,
    "top_k": 40,
    "typical_p": 0.95,
    "top_p": 0.9,
    "min_p": 0.02,
    "xtc_probability": 0.5,
    "repetition_penalty": 1.1,
    "presence_penalty": 0.2,
    "frequency_penalty": 0.1,
    "no_repeat_ngram_size": 3,
    "logit_bias": dict.fromkeys(range(100, 120), 0.5),
    "dry_multiplier": 0.8,
}
WAYS: Mapping[str, Mapping[str, object]] = {
    "nothing on (greedy)": {},
    "temperature 0.7": {"rng_seed": 1, "temperature": 0.7},
    "temperature 0.7, top-k 40, top-p 0.9": {"rng_seed": 1, "temperature": 0.7, "top_k": 40, "top_p": 0.9},
    "temperature 1, top-p 0.95": {"rng_seed": 1, "top_p": 0.95},
    "temperature 1, min-p 0.05": {"rng_seed": 1, "min_p": 0.05},
    "everything on": EVERYTHING,
    "everything on, and a constraint": EVERYTHING,
    "everything on but top-k": {**EVERYTHING, "top_k": 0},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Times:
    """Seconds of one round's steps: the fastest of the decode step, and of choosing for all rows and accepting."""

    step: float
    choosing: float


class Half:
    """A constraint that rules out every other token, at random: what a grammar does, as far as sampling sees it."""

    is_complete = False

    def __init__(self, vocab_size: int, allowed: Sequence[int]) -> None:
        self._mask = np.random.default_rng(0).random(vocab_size) < 0.5
        self._mask[list(allowed)] = True

    def mask(self) -> BoolArray:
        return self._mask

    def accept(self, token: int) -> None:
        pass

    def forced(self) -> list[int]:
        return []

    def rollback(self, num_tokens: int) -> None:
        pass

    def copy(self) -> Half:
        return self


class Batch:
    """Rows of a runner's cache that hold a prompt each, and a sampler for each row and way."""

    def __init__(self, runner: Runner, tokens: list[int], size: int) -> None:
        self._runner = runner
        self._threads = Threads(default_threads())
        self._texts = prompts(tokens, size, NUM_PROMPT + STEPS_A_ROUND)
        self._rows = [runner.cache.allocate(NUM_PROMPT + STEPS_A_ROUND + 1) for _ in self._texts]
        for row, text in zip(self._rows, self._texts, strict=True):
            runner.prefill(row, text[:NUM_PROMPT])
        self._samplers = {way: [new_sampler(way, text, runner.vocab_size) for text in self._texts] for way in WAYS}

    def run(self, way: str) -> Times:
        """A few steps from the prompts on."""
        cache, samplers = self._runner.cache, self._samplers[way]
        for row, sampler in zip(self._rows, samplers, strict=True):
            cache.truncate(row, NUM_PROMPT)
            sampler.rewind(0)
        times = [self._step(samplers, [text[place] for text in self._texts]) for place in range(NUM_PROMPT, self._end)]
        return Times(step=min(step for step, _ in times), choosing=min(choosing for _, choosing in times))

    def free(self) -> None:
        """Give the rows back."""
        for row in self._rows:
            self._runner.cache.free(row)

    @property
    def _end(self) -> int:
        return NUM_PROMPT + STEPS_A_ROUND

    def _step(self, samplers: Sequence[Sampler], new: Sequence[int]) -> tuple[float, float]:
        (group,) = self._runner.cache.groups
        started = time.perf_counter()
        logits = self._runner.advance(group, [[new[self._rows.index(row)]] for row in group.rows])
        ran = time.perf_counter()
        choose(samplers, [logits[group.rows.index(row), 0] for row in self._rows], self._threads)
        for sampler, token in zip(samplers, new, strict=True):
            sampler.accept(token)
        return ran - started, time.perf_counter() - ran


def new_sampler(way: str, text: Sequence[int], vocab_size: int) -> Sampler:
    """A sampler for one row's text; with everything on, bad words and a least length, too."""
    config = GenerationConfig().updated(**WAYS[way]).sampling_config
    if not way.startswith("everything"):
        return Sampler(config, text[:NUM_PROMPT], vocab_size)
    return Sampler(
        config,
        text[:NUM_PROMPT],
        vocab_size,
        eos_token_ids=frozenset({0, 2}),
        min_new_tokens=10_000,
        bad_words=[[5], [6, 7], [text[3]], [*text[20:22]], [*text[30:33]]],
        dry_breakers=frozenset({11, 13}),
        constraint=Half(vocab_size, text) if way.endswith("constraint") else None,
    )


def measured(runner: Runner, tokens: list[int], size: int, rounds: int, patience: int) -> Rounds[Times]:
    """What each way costs for a batch, round by round; the first round, which binds buffers, does not count."""
    batch = Batch(runner, tokens, size)
    actions = {way: Action(run=partial(batch.run, way), process_id=os.getpid()) for way in WAYS}
    quiet_rounds(actions, 1)
    found = quiet_rounds(actions, rounds, patience=patience)
    batch.free()
    return found


def share(rounds: Sequence[Times]) -> float:
    """Choosing over its decode step: the median of the rounds' own ratios."""
    return paired_ratio([each.choosing for each in rounds], [each.step for each in rounds])


def as_markdown(model: str, found: Mapping[int, Rounds[Times]]) -> str:
    """One line for each way: milliseconds for each batch, and the share of its decode step."""
    header = ["", *(title for batch in found for title in (f"b{batch}, ms", "of its step"))]
    rows = [[way, *(cell for rounds in found.values() for cell in _cells(rounds.results[way]))] for way in WAYS]
    steps = ["decode step", *(cell for rounds in found.values() for cell in (f"{step_seconds(rounds) * 1e3:.1f}", ""))]
    noise = max(rounds.disturbance for rounds in found.values())
    warning = f" (others took up to {noise:.0%} of the processors)" if noise >= 0.1 else ""
    return f"## {model}{warning}\n\n{markdown_table(header, [*rows, steps])}\n"


def _cells(rounds: Sequence[Times]) -> tuple[str, str]:
    return f"{statistics.median(each.choosing for each in rounds) * 1e3:.2f}", f"{share(rounds):.1%}"


def step_seconds(rounds: Rounds[Times]) -> float:
    """The decode step in the median of all rounds."""
    return statistics.median(each.step for times in rounds.results.values() for each in times)


def as_json(found: Mapping[int, Rounds[Times]]) -> dict[str, JSON]:
    """Everything, the single rounds included."""
    return {
        str(batch): {
            "disturbance": rounds.disturbance,
            "step_seconds": step_seconds(rounds),
            "ways": {
                way: {
                    "share": share(times),
                    "choosing": [each.choosing for each in times],
                    "step": [each.step for each in times],
                }
                for way, times in rounds.results.items()
            },
        }
        for batch, rounds in found.items()
    }


def main(arguments: Sequence[str]) -> None:
    """Measure, print Markdown, keep JSON in benchmarks/results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sampling")
    parser.add_argument("models", nargs="*", default=MODELS)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--patience", type=int, default=3)
    chosen = parser.parse_args(arguments)
    results: dict[str, JSON] = {}
    for model in chosen.models:
        package = models.package(model, precision=chosen.precision, device="cpu")
        config = EngineConfig(max_seq_len=NUM_PROMPT + STEPS_A_ROUND + 8, max_batch=max(BATCHES))
        runner = load_runner(package, ModelConfig.read(package), config).runner
        tokens = english_tokens(package)
        found = {size: measured(runner, tokens, size, chosen.rounds, chosen.patience) for size in BATCHES}
        print(as_markdown(model, found), flush=True)
        results[model] = as_json(found)
    (ROOT / "results").mkdir(exist_ok=True)
    (ROOT / "results" / "sampling.json").write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main(sys.argv[1:])
