"""Several texts of one prompt: samples that fork, beams that share, and what happens to them when room is short."""

from __future__ import annotations

import random

import numpy as np
import pytest

from genai.decoding.beam_search import BeamSearch
from genai.engine.request import Request
from genai.engine.sequence import Job, TokenEvent
from genai.errors import ConfigError
from genai.options.generation_config import GenerationConfig
from tests.engine.conftest import WITHOUT_STATES
from tests.engine.test_engine import EOS, config, engine_with, prompts, run
from tests.fakes import FakeRunner, greedy_continuation, next_logits

pytestmark = pytest.mark.usefixtures("each_memory")


def sampled(count: int, num_tokens: int = 12) -> GenerationConfig:
    return config(num_tokens, n=count, temperature=0.8, rng_seed=3)


def texts(job: Job) -> list[list[int]]:
    return [sequence.generated for sequence in job.sequences]


def count_prefilled(runner: FakeRunner) -> list[int]:
    """Tokens of each prefill run from now on."""
    counts: list[int] = []
    prefill = runner.prefill_chunk

    def counting(row: int, tokens: list[int]) -> np.ndarray:
        counts.append(len(tokens))
        return prefill(row, tokens)

    runner.prefill_chunk = counting  # type: ignore[method-assign, assignment]
    return counts


def test_samples_fork_from_one_prefill() -> None:
    engine, runner = engine_with()
    counts = count_prefilled(runner)
    job = engine.submit(Request(prompt=[5] * 40, config=sampled(3)))
    run(engine)
    assert sum(counts) == 40, "the prompt is run once"
    assert len({tuple(text) for text in texts(job)}) == 3, "each has a random stream of its own"
    assert [sequence.index for sequence in job.sequences] == [0, 1, 2]


@pytest.mark.parametrize(("num_slots", "max_batch"), [(4096, 8), (4096, 2), (150, 8), (60, 8)])
def test_samples_are_the_same_however_little_room_there_is(num_slots: int, max_batch: int) -> None:
    roomy, _ = engine_with()
    expected = roomy.submit(Request(prompt=[5, 6, 7] * 9, config=sampled(4)))
    run(roomy)
    engine, runner = engine_with(num_slots=num_slots, max_batch=max_batch, max_seq_len=60)
    job = engine.submit(Request(prompt=[5, 6, 7] * 9, config=sampled(4)))
    run(engine)
    assert texts(job) == texts(expected)
    assert runner.cache.rows == ()


def test_the_first_of_several_samples_is_the_one_sample() -> None:
    engine, _ = engine_with()
    several = engine.submit(Request(prompt=[1, 2], config=sampled(3)))
    one = engine.submit(Request(prompt=[1, 2], config=sampled(1)))
    run(engine)
    assert texts(several)[0] == texts(one)[0]


def test_a_job_that_is_cancelled_before_it_forks_ends_all_its_texts() -> None:
    engine, runner = engine_with()
    job = engine.submit(Request(prompt=[5] * 60, config=sampled(3)))
    engine.step()
    assert not job.is_over
    engine.cancel(job)
    events = engine.step()
    assert [event.finish_reason for event in events] == ["cancelled"] * 3
    assert job.is_over
    assert not engine.has_work
    assert runner.cache.rows == ()


def test_samples_whose_prefill_fails_try_for_themselves() -> None:
    engine, runner = engine_with(fails=lambda run: run == 0)
    job = engine.submit(Request(prompt=[5] * 10, config=sampled(2)))
    run(engine)
    assert [sequence.finish_reason for sequence in job.sequences] == ["error", "length"]
    assert job.error is not None
    assert runner.cache.rows == ()


def beams(num_tokens: int = 10, **options: object) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=num_tokens).updated(**{"num_beams": 4, **options})


def searched(prompt: list[int], settings: GenerationConfig) -> list[tuple[list[int], float]]:
    """Beam search over the fake model, computed without any cache."""
    search = BeamSearch(settings.beam_search_config, frozenset({EOS}), settings.max_new_tokens or 0)
    live = [list(prompt)] * settings.beam_search_config.num_beams
    while not search.is_done:
        logits = np.stack([next_logits(tokens) for tokens in live])
        shifted = logits - logits.max(axis=1, keepdims=True)
        scores = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
        live = [[*live[branch.parent], branch.token] for branch in search.step(scores.astype(np.float32))]
    return [(list(best.tokens), best.score) for best in search.best()]


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_return_sequences": 3, "length_penalty": 2.0},
        {"early_stopping": True, "num_return_sequences": 4},
        {"early_stopping": "never", "num_beams": 3},
        {"num_beam_groups": 2, "diversity_penalty": 1.5, "num_return_sequences": 4},
    ],
)
@pytest.mark.parametrize(("num_slots", "max_batch"), [(4096, 8), (4096, 2), (100, 8)])
def test_beams_are_those_of_the_search(options: dict[str, object], num_slots: int, max_batch: int) -> None:
    for prompt in prompts(4, 20):
        engine, runner = engine_with(num_slots=num_slots, max_batch=max_batch, max_seq_len=64)
        settings = beams(**options)
        job = engine.submit(Request(prompt=prompt, config=settings))
        run(engine)
        expected = searched(prompt, settings)
        assert texts(job) == [tokens for tokens, _ in expected]
        assert [sequence.score for sequence in job.sequences] == pytest.approx(
            [score for _, score in expected], rel=1e-5
        )
        assert all(sequence.finish_reason in {"stop", "length"} for sequence in job.sequences)
        assert not engine.has_work
        assert runner.cache.rows == ()


def test_beams_run_beside_other_texts() -> None:
    engine, runner = engine_with(max_batch=6, num_slots=700)
    rng = random.Random(1)
    jobs = []
    for prompt in prompts(10, 30):
        settings = rng.choice([beams(8), sampled(2, 8), config(15)])
        jobs.append((prompt, settings, engine.submit(Request(prompt=prompt, config=settings))))
    run(engine)
    for prompt, settings, job in jobs:
        if settings.is_beam_search:
            assert texts(job) == [tokens for tokens, _ in searched(prompt, settings)]
        elif settings.n == 1:
            assert texts(job) == [greedy_continuation(prompt, 15)]
    assert runner.cache.rows == ()


def test_beams_copy_only_what_differs() -> None:
    engine, runner = engine_with()
    copied: list[int] = []
    copy = runner.cache.copy

    def counting(source: int, target: int, start: int, end: int) -> None:
        copied.append(end - start)
        copy(source, target, start, end)

    runner.cache.copy = counting  # type: ignore[method-assign]
    engine.submit(Request(prompt=[3] * 100, config=beams(10)))
    run(engine)
    assert copied, "some beams fork"
    assert max(copied) <= 10, "never the prompt"


def test_a_search_that_is_cut_short_gives_what_it_has() -> None:
    engine, runner = engine_with()
    job = engine.submit(Request(prompt=[3] * 5, config=beams(200, num_return_sequences=2), timeout=0.0))
    run(engine)
    assert [sequence.finish_reason for sequence in job.sequences] == ["timeout"] * 2
    cancelled = engine.submit(Request(prompt=[3] * 5, config=beams(200, num_return_sequences=2)))
    for _ in range(4):
        engine.step()
    engine.cancel(cancelled)
    run(engine)
    assert cancelled.is_over
    assert {sequence.finish_reason for sequence in cancelled.sequences} <= {"cancelled", "stop"}
    assert runner.cache.rows == ()


def test_a_failed_run_ends_the_whole_search() -> None:
    engine, runner = engine_with(fails=lambda run: run == 4)
    job = engine.submit(Request(prompt=[3] * 5, config=beams(50, num_return_sequences=3)))
    run(engine)
    assert [sequence.finish_reason for sequence in job.sequences] == ["error"] * 3
    assert job.error is not None
    assert runner.cache.rows == ()


def test_what_beams_exclude_is_refused() -> None:
    for options in ({"do_sample": True}, {"n": 2}, {"stop": "x"}, {"logprobs": True}, {"speculative": "prompt_lookup"}):
        with pytest.raises(ConfigError, match="cannot be had with num_beams"):
            beams(**options)


@pytest.mark.parametrize("fails_in", ["accept", "deliver"])
@pytest.mark.parametrize("options", [{"num_beams": 3, "num_return_sequences": 3}, {"n": 3, "seed": 1}])
def test_a_sink_that_fails_ends_its_text_once(fails_in: str, options: dict[str, object]) -> None:
    class Failing:
        def __init__(self) -> None:
            self.ends: list[tuple[int, str]] = []

        def accept(self, event: TokenEvent) -> bool:
            self.fail(event, "accept")
            return False

        def deliver(self, event: TokenEvent) -> None:
            if event.finish_reason is not None:
                self.ends.append((event.sequence.index, event.finish_reason))
            self.fail(event, "deliver")

        def fail(self, event: TokenEvent, where: str) -> None:
            if fails_in == where and event.sequence.index == 1 and len(event.sequence.generated) == 2:
                raise ZeroDivisionError

    engine, runner = engine_with()
    sink = Failing()
    job = engine.submit(Request(prompt=[3] * 5, config=config(8, **options), sink=sink))
    run(engine)
    assert sorted(sink.ends) == [(0, "length"), (1, "error"), (2, "length")]
    assert len(job.sequences[1].generated) == 2
    assert "sink failed" in str(job.error)
    assert runner.cache.rows == ()


def test_a_sink_may_end_a_beams_text_early() -> None:
    witness = Ending(3)
    engine, _ = engine_with()
    job = engine.submit(Request(prompt=[3] * 5, config=beams(8, ignore_eos=True), sink=witness))
    run(engine)
    assert (len(job.first.generated), job.first.finish_reason, witness.ends) == (3, "stop", 1)


class Ending:
    """A sink that ends texts at so many tokens."""

    def __init__(self, length: int) -> None:
        self.length, self.ends = length, 0

    def accept(self, event: TokenEvent) -> bool:
        return len(event.sequence.generated) == self.length

    def deliver(self, event: TokenEvent) -> None:
        self.ends += event.finish_reason is not None


def test_forks_never_take_the_room_of_those_that_run() -> None:
    """Seeds at which a fork took the last slots, and a text that decoded in the same step failed."""
    for seed in (0, 25, 47, 81, 120, 140, 148, 156, 196, 292):
        rng = random.Random(seed)
        engine, _ = engine_with(num_slots=rng.randint(60, 160), max_batch=8, max_seq_len=60)
        for _ in range(3):
            prompt = [rng.randrange(97) for _ in range(rng.randint(1, 30))]
            engine.submit(Request(prompt=prompt, config=config(25)))
            for _ in range(rng.randint(0, 6)):
                engine.step()
        prompt = [rng.randrange(97) for _ in range(rng.randint(1, 30))]
        engine.submit(Request(prompt=prompt, config=sampled(rng.randint(2, 6), 25)))
        assert not [sequence.error for sequence in run(engine) if sequence.error]


@pytest.mark.parametrize("each_memory", WITHOUT_STATES, indirect=True)
def test_beams_score_their_prompt_and_find_it_in_the_prefix_cache() -> None:
    engine, _ = engine_with(prefix_bytes=10**6)
    for num_cached in (0, 32):
        job = engine.submit(Request(prompt=[3] * 40, config=beams(4, num_return_sequences=2)))
        run(engine)
        assert job.first.num_cached == num_cached
    scored = engine.submit(Request(prompt=[3, 4, 5], config=beams(4, prompt_logprobs=1)))
    run(engine)
    assert len(scored.first.prompt_logprobs) == 3
    assert engine._metrics is not None
    assert engine._metrics.registry.get_sample_value("genai_prompt_tokens_total", {"model": "fake"}) == 83


def test_beams_that_may_not_grow_have_no_text() -> None:
    engine, runner = engine_with()
    job = engine.submit(Request(prompt=[3] * 5, config=beams(0, num_return_sequences=2)))
    run(engine)
    assert texts(job) == [[], []]
    assert [sequence.finish_reason for sequence in job.sequences] == ["length"] * 2
    assert runner.cache.rows == ()


def test_a_search_that_outgrows_the_cache_leaves_no_row() -> None:
    for num_slots in range(20, 40):
        engine, runner = engine_with(num_slots=num_slots, max_batch=4)
        job = engine.submit(Request(prompt=[3] * 10, config=beams(100)))
        run(engine)
        assert job.is_over
        assert runner.cache.rows == ()
