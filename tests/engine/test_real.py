"""The engine on real weights: a random mix of requests, each as it is alone."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from genai.config import EngineConfig
from genai.decoding.processors import log_softmax
from genai.engine.engine import Engine
from genai.engine.prefix_cache import PrefixCache
from genai.engine.request import Request
from genai.engine.scheduler import Limits
from genai.engine.sequence import Sequence as Text
from genai.llm.llm import LLM
from genai.llm.writer import JobWriter, TextWriter
from genai.options.generation_config import GenerationConfig

pytestmark = pytest.mark.slow

NEAR_TIE = 1e-3
"""In f32 a logit of SmolLM2 differs by at most 1e-4 between a row alone, in a batch, and prefilled in one piece (most
seen in 144 tokens of six texts: 7e-5). So two tokens change places only if their probabilities differ by less than
2e-4 of themselves, and a drawn token moves only if the draw is as close to its edge; five times that is allowed."""

SHARED = "You are a careful assistant. Answer in one short sentence, and say so when you do not know. "
PROMPTS = [
    "The three primary colours are",
    "Once upon a time there was a small",
    "def fibonacci(n):\n    ",
    "Water boils at",
    SHARED + "What is a cache?",
    SHARED + "What is a key?",
    SHARED + "Where is Lisbon?",
    "1, 2, 3, 4,",
]
SETTINGS: list[dict[str, object]] = [
    {"temperature": 0},
    {"temperature": 0.8, "seed": 11},
    {"temperature": 1.3, "seed": 12},
]
NUM_TOKENS = 14


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request of the mix, and the tokens that its prompt and settings give alone."""

    text: Text
    writer: JobWriter
    alone: list[int]
    num_tokens: int
    stop: str | None


def test_a_random_mix_gives_the_texts_that_each_gives_alone(smollm2_f32: Path) -> None:
    """Sixty requests in an arena for a few of them: rows join, leave, move, give way and come back from the cache."""
    rng = random.Random(0)
    config = EngineConfig(device="cpu", max_batch=6, max_seq_len=64, kv_cache_bytes=80 * 46_080)
    with LLM(smollm2_f32, config) as llm:
        cache = llm._runner.cache
        cache.policy = replace(cache.policy, headroom=0)  # so that these short texts run out of room
        engine = engine_over(llm, prefix_bytes=60 * 46_080)
        alone = {(p, s): generated_alone(llm, PROMPTS[p], SETTINGS[s]) for p in range(8) for s in {0, 1 + p % 2}}
        waiting = [choice for choice in alone for _ in range(4)][:60]
        rng.shuffle(waiting)
        asked: list[Asked] = []
        while waiting or engine.has_work:
            for _ in range(rng.choice([0, 0, 1, 2, 5])):
                if waiting:
                    choice = waiting.pop()
                    asked.append(ask(llm, engine, choice, alone[choice], rng))
            if rng.random() < 0.05 and asked:
                engine.cancel(rng.choice(asked[-8:]).text.job)
            engine.step()
            llm._runner.cache.check_integrity()
        assert llm._runner.cache.rows == ()
        reasons = Counter(each.text.finish_reason for each in asked)
        assert reasons.keys() == {"length", "stop", "cancelled"}
        assert reasons["length"] > 20
        assert sum(each.text.timeline.num_preemptions for each in asked) > 0
        assert sum(each.text.num_cached > 0 for each in asked) > 10
        near_ties = [each for each in asked if not is_as_alone(llm, each)]
        for each in near_ties:
            check_near_tie(llm, each)
        assert len(near_ties) <= 3, "as rare as near-ties are"


def engine_over(llm: LLM, prefix_bytes: int) -> Engine:
    limits = Limits(max_batch=6, max_seq_len=llm.max_seq_len, prefill_chunk=24)
    shape = llm._runner.cache.shape
    prefixes = PrefixCache(b"smollm2", shape.slot_bytes, prefix_bytes)
    return Engine(llm._runner, limits, llm.config.eos_token_ids, prefixes)


def generated_alone(llm: LLM, prompt: str, settings: dict[str, object]) -> list[int]:
    """One text in an empty engine without any cache of prefixes."""
    engine = engine_over(llm, 0)
    config = GenerationConfig(max_new_tokens=NUM_TOKENS).updated(**settings)
    text = engine.submit(Request(prompt=llm.tokenizer.encode(prompt), config=config)).first
    while engine.has_work:
        engine.step()
    return text.generated


def ask(llm: LLM, engine: Engine, choice: tuple[int, int], alone: list[int], rng: random.Random) -> Asked:
    whole = llm.tokenizer.decode(alone)
    start = rng.randrange(3, max(4, len(whole) - 4))
    stop = whole[start : start + rng.randint(1, 4)] if rng.random() < 0.25 else ""
    num_tokens = rng.randint(3, NUM_TOKENS)
    config = GenerationConfig(max_new_tokens=num_tokens).updated(**SETTINGS[choice[1]], stop=stop or None)
    writer = JobWriter([TextWriter(llm.tokenizer.detokenizer(), config)])
    prompt = llm.tokenizer.encode(PROMPTS[choice[0]])
    text = engine.submit(Request(prompt=prompt, config=config, sink=writer, priority=rng.randint(0, 1))).first
    return Asked(text=text, writer=writer, alone=alone, num_tokens=num_tokens, stop=stop or None)


def is_as_alone(llm: LLM, each: Asked) -> bool:
    """Whether the tokens are those of the text alone; if they are, the text and its end must be right too."""
    got = each.text.generated
    if got != each.alone[: len(got)]:
        return False
    result = each.writer.result(each.text.job)
    assert llm.tokenizer.decode(got).startswith(result.text)
    if result.finish_reason == "length":
        assert len(got) == each.num_tokens
    if result.finish_reason == "stop" and each.stop and each.stop in llm.tokenizer.decode(got):
        assert result.text == llm.tokenizer.decode(got).split(each.stop)[0]
    elif result.finish_reason != "cancelled":
        assert result.text == llm.tokenizer.decode(got)
    return True


def check_near_tie(llm: LLM, each: Asked) -> None:
    """At the first differing token both choices were as good: in probability, or within the width of the draw."""
    got, alone = each.text.generated, each.alone
    index = next(i for i, (left, right) in enumerate(zip(got, alone, strict=False)) if left != right)
    logits = llm.logits([*each.text.tokens[: each.text.num_prompt], *alone[:index]])[-1]
    sampling = each.text.config.sampling_config
    tokens = sorted((got[index], alone[index]))
    if not sampling.do_sample:
        low, high = sorted(float(np.exp(log_softmax(logits)[token])) for token in tokens)
        assert high - low < NEAR_TIE * high, (index, tokens, low, high)
        return
    cumulative = np.cumsum(np.exp(log_softmax(logits / np.float32(sampling.temperature))), dtype=np.float64)
    draw = nth_draw(sampling.rng_seed, index) * cumulative[-1]
    assert abs(cumulative[tokens[0]] - draw) < NEAR_TIE, (index, tokens, draw)
    assert abs(cumulative[tokens[1] - 1] - draw) < NEAR_TIE, (index, tokens, draw)


def nth_draw(seed: int | None, index: int) -> float:
    draws: Sequence[float] = np.random.Generator(np.random.PCG64(seed)).random(index + 1).tolist()
    return draws[index]
