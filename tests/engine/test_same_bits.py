"""Random mixes on real weights: each text's log probabilities are, to the bit, those that it has alone.

Batches, chunks, drafts, preemption, prefix hits, idle rows, rewinding, forks and beams, as `test_mixes.py` makes them
on a fake model; here on SmolLM2 in the default precision and in `int4`, and on Gemma with its windows and heads of 256.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from genai import models
from genai.config import EngineConfig
from genai.decoding.logprobs import token_logprob
from genai.engine.beside import Beside
from genai.engine.engine import Engine
from genai.engine.prefix_cache import PrefixCache
from genai.engine.request import Request
from genai.engine.scheduler import Limits
from genai.engine.sequence import Job, Sequence
from genai.llm.llm import LLM
from genai.options.generation_config import GenerationConfig
from tests.engine.test_mixes import Case, Mix, Witness

pytestmark = [pytest.mark.slow, pytest.mark.long]

ENGLISH = Path(__file__).parents[2] / "benchmarks" / "data" / "english.txt"
NUM_SLOTS, MAX_SEQ_LEN = 300, 120
SEEDS = (5, 6)
"""Of mixes in which everything happens that is asked for below."""


@pytest.fixture(
    scope="module",
    params=[("smollm2-135m-instruct", "auto"), ("smollm2-135m-instruct", "int4"), ("gemma-3-270m", "auto")],
    ids="-".join,
)
def llm(request: pytest.FixtureRequest) -> Iterator[LLM]:
    name, precision = request.param
    package = models.package(name, precision=precision, device="cpu")
    with loaded(package) as llm:
        yield llm


def loaded(package: Path) -> LLM:
    """In an arena for a few texts, with little room to grow before some give way."""
    small = EngineConfig(device="cpu", max_seq_len=MAX_SEQ_LEN, max_batch=4, prefix_cache_bytes=0)
    with LLM(package, small) as llm:
        per_token = llm._runner.cache.shape.bytes_per_token
    llm = LLM(package, replace(small, kv_cache_bytes=NUM_SLOTS * per_token))
    llm._runner.cache.policy = replace(llm._runner.cache.policy, headroom=0)
    return llm


class RealMix(Mix):
    """A mix over a model's runner, which has first run each text alone."""

    def __init__(self, rng: random.Random, llm: LLM) -> None:
        self.rng, self.llm = rng, llm
        self.english = llm.tokenizer.encode(ENGLISH.read_text(encoding="utf-8"))
        self.beside, self.poison = Beside(), ()
        self.runner = llm._runner  # type: ignore[assignment]
        self.waiting = [self.made() for _ in range(rng.randint(2, 6))]
        self.engine = self.engine_with(rng.choice([2, 4, 8]), rng.choice([5, 24, 64, 512]), rng.choice([0, 10**8]))
        self.cases: list[Case] = []

    def engine_with(self, max_batch: int, chunk: int, prefix_bytes: int) -> Engine:
        for row in self.runner.cache.idle:  # of an engine before
            self.runner.cache.forget(row)
        limits = Limits(max_batch=max_batch, max_seq_len=self.llm.max_seq_len, prefill_chunk=chunk)
        prefixes = PrefixCache(b"bits", self.runner.cache.shape.slot_bytes, prefix_bytes)
        return Engine(self.llm._runner, limits, self.llm.config.eos_token_ids, prefixes)

    def case(self) -> Case:
        return self.waiting.pop()

    def made(self) -> Case:
        request = self.request()
        return Case(
            request=request,
            stop=None,
            alone=self.alone(request),
            witness=Witness(None, None if request.is_manual else self.rng),
        )

    def request(self) -> Request:
        rng = self.rng
        start, length = (
            rng.choice([0, 0, 0, 100, 200]),
            rng.choice([1, 3, 17, rng.randint(1, 100), rng.randint(60, 100)]),
        )
        options: dict[str, object] = {"max_new_tokens": rng.randint(1, 12), "ignore_eos": True, "logprobs": True}
        kind = rng.choice(["greedy", "sampled", "several", "beams", "manual"])
        if kind == "beams":
            options |= {"num_beams": rng.choice([2, 3]), "num_return_sequences": 2, "logprobs": False}
        elif kind == "manual":  # it keeps its logits, which `tend` looks at
            options["logprobs"] = False
        elif kind in {"sampled", "several"}:
            options |= {"temperature": 0.9, "seed": rng.randrange(99), "n": 1 if kind == "sampled" else 3}
        options |= {"top_logprobs": 3} if options["logprobs"] and rng.random() < 0.5 else {}
        options |= {"prompt_logprobs": 1} if rng.random() < 0.3 else {}
        return Request(
            prompt=self.english[start : start + length],
            config=GenerationConfig().updated(**options),
            priority=rng.randint(0, 1),
            is_manual=kind == "manual",
        )

    def alone(self, request: Request) -> Job:
        """In an engine without anything else; prompts in one run."""
        engine = self.engine_with(8, 512, 0)
        config = request.config if request.config.is_beam_search else request.config.updated(logprobs=True)
        job = engine.submit(replace(request, is_manual=False, config=config, sink=Witness()))
        while engine.has_work:
            engine.step()
        return job

    def tend(self, case: Case, sequence: Sequence) -> None:
        place, texts = len(sequence.generated), case.alone.sequences
        if sequence.logits is not None and case.request.is_manual and place < len(texts[0].logprobs):
            known = texts[0].logprobs[place]
            assert token_logprob(sequence.logits, known.token_id, len(known.top)) == known
        super().tend(case, sequence)

    def step(self) -> None:
        self.engine.step()
        self.runner.cache.check_integrity()
        self.tend_all()


def run_mix(llm: LLM, seed: int) -> Counter[str]:
    """Run the mix of a seed and check each text; returns what happened in it."""
    rng = random.Random(seed)
    mix = RealMix(rng, llm)
    while mix.waiting:
        mix.submit()
        for _ in range(rng.choice([0, 0, 1, 5])):
            mix.step()
    mix.finish()
    texts = [text for case in mix.cases if case.job is not None for text in case.job.sequences]
    happened = Counter({"texts": len(texts), "beams": sum(case.request.config.is_beam_search for case in mix.cases)})
    happened["manual"] = sum(case.request.is_manual for case in mix.cases)
    happened["preempted"] = sum(text.timeline.num_preemptions for text in texts)
    happened["cached"] = sum(text.num_cached > 0 for text in texts)
    happened["drafted"] = sum(text.drafter.budget.num_drafted for text in texts if text.drafter is not None)
    happened["cut"] = sum(case.is_cut for case in mix.cases if not case.request.is_manual)
    return happened


def test_each_text_has_the_bits_that_it_has_alone(llm: LLM) -> None:
    assert llm.same_bits.padding is not None
    happened = sum((run_mix(llm, seed) for seed in SEEDS), Counter[str]())
    assert happened["cut"] == 0
    for what in ("beams", "manual", "preempted", "cached", "drafted"):
        assert happened[what] > 0, f"nothing was {what}: other seeds"
