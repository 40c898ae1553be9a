"""Threads that ask for texts with different adapters while these come and go: each text has its own, and it alone.

Of every kind of text the log probabilities are compared with those of a model that has nothing else to do.
"""

from __future__ import annotations

import random
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai.build.package import build_package
from genai.decoding.logprobs import token_logprob
from genai.errors import AdapterError, ConfigError
from genai.llm.llm import LLM
from genai.llm.results import Choice, Generation
from tests.build import tiny
from tests.build.adapters import published

pytest.importorskip("peft")

NUMBERS = (1, 2, 3, 4)
SHARED = tiny.tokens(48, 9)
KINDS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0, "logprobs": True},
    "sampled": {"temperature": 2.0, "n": 3, "logprobs": True},
    "drafted": {"temperature": 0.0, "speculative": "prompt_lookup", "logprobs": True},
    "beams": {"num_beams": 3, "length_penalty": 0.0},
}
TOLERANCE = 2e-3
"""Of a log probability; that of another adapter's differs by 1 and more."""


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a thread asked for: of which adapter (0: none), how much of it, and how."""

    number: int
    scale: float
    kind: str
    prompt: list[int]


class Crowd:
    """A model with three places for four adapters, whoever asks for them, and what became of it."""

    def __init__(self, llm: LLM, paths: dict[int, Path], rng: random.Random) -> None:
        self.llm, self.paths, self.rng = llm, paths, rng
        self.names: dict[int, str] = {}
        self.happened: Counter[str] = Counter()

    def ask(self, threads: ThreadPoolExecutor) -> tuple[Asked, Future[Generation | None]]:
        """Have a thread ask for one more text; what it needs is loaded, in the place of another one if need be."""
        rng = self.rng
        number = rng.choice((0, *NUMBERS))
        asked = Asked(
            number=number,
            scale=rng.choice((1.0, 1.0, 0.5)),
            kind=rng.choice([*KINDS]),
            prompt=SHARED[: rng.choice((5, 20, 48))] + tiny.tokens(rng.randint(1, 12), rng.randrange(99)),
        )
        if number and number not in self.names:
            self.load(number)
        return asked, threads.submit(self.generate, asked, self.names.get(number))

    def load(self, number: int) -> None:
        name = f"{number}, {sum(self.happened.values())}"
        try:
            self.llm.load_adapter(name, self.paths[number])
        except AdapterError:
            if self.names:
                self.llm.unload_adapter(self.names.pop(self.rng.choice([*self.names])))
                self.happened["unloaded"] += 1
        else:
            self.names[number] = name
            self.happened["loaded"] += 1

    def generate(self, asked: Asked, name: str | None) -> Generation | None:
        """None where the adapter has gone meanwhile."""
        if asked.number and name is None:
            return None
        adapter = None if name is None else (name, asked.scale)
        options = {"max_new_tokens": 16, "ignore_eos": True, **KINDS[asked.kind]}
        try:
            return self.llm.generate(asked.prompt, adapter=adapter, **options)
        except ConfigError as error:
            if not any(said in str(error) for said in ("no such adapter", "has been unloaded")):
                raise
            return None


def test_each_text_has_its_own_adapter(tmp_path: Path) -> None:
    model = tiny.make_model("llama")
    checkpoint = tiny.save(model, tmp_path / "checkpoint")
    package = build_package(checkpoint, tmp_path / "package", precision="f32", lora_slots=3, max_rank=4)
    paths = {
        number: published.save(published.adapted(model, seed=number), tmp_path / str(number)) for number in NUMBERS
    }
    per_token = 3 * 2 * 2 * 16 * 4  # layers × keys and values × heads × numbers × bytes
    with tiny.loaded(package, max_batch=6, kv_cache_bytes=280 * per_token, prefix_cache_bytes=100_000) as llm:
        crowd = Crowd(llm, paths, random.Random(0))
        with ThreadPoolExecutor(6) as threads:
            answers = []
            for number in range(60):
                answers.append(crowd.ask(threads))
                if number % 6 == 5:
                    answers[-3][1].result()
            texts = [(asked, answer.result()) for asked, answer in answers]
    told = [(asked, text) for asked, text in texts if text is not None]
    happened = crowd.happened + Counter(asked.kind for asked, _ in told if asked.number)
    happened["cached"] = sum(text.usage.cached_tokens > 0 for asked, text in told if asked.number)
    for what in (*KINDS, "loaded", "unloaded", "cached"):
        assert happened[what] > 0, f"nothing was {what}: another seed"
    with tiny.loaded(package, prefix_cache_bytes=0) as llm:
        for number, path in [*paths.items()][:3]:
            llm.load_adapter(str(number), path)
        check(llm, [(asked, text) for asked, text in told if asked.number != NUMBERS[3]])
        llm.unload_adapter("1")
        llm.load_adapter(str(NUMBERS[3]), paths[NUMBERS[3]])
        check(llm, [(asked, text) for asked, text in told if asked.number == NUMBERS[3]])


def check(llm: LLM, told: list[tuple[Asked, Generation]]) -> None:
    """Each text's log probabilities are those of the model with its adapter, alone."""
    for asked, text in told:
        adapter = (str(asked.number), asked.scale) if asked.number else None
        for choice in text.choices:
            logits = llm.logits(asked.prompt + choice.token_ids, adapter=adapter)[len(asked.prompt) - 1 : -1]
            wanted = [
                token_logprob(line, token, 0).logprob for line, token in zip(logits, choice.token_ids, strict=True)
            ]
            np.testing.assert_allclose(_logprobs(choice, wanted), wanted, atol=TOLERANCE)


def _logprobs(choice: Choice, wanted: list[float]) -> list[float]:
    """What was told of a choice; of a beam, whose sum alone is told, with the wanted ones before the last."""
    if choice.logprobs is None:
        assert choice.score is not None
        return [*wanted[:-1], choice.score - sum(wanted[:-1])]
    return [each.logprob for each in choice.logprobs]
