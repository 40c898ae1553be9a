"""Several texts of one prompt: samples that fork, beams that share, and what happens to them when room is short."""

from __future__ import annotations

import random

import numpy as np
import pytest

from genai.decoding.beam import BeamSearch
from genai.engine.request import Request
from genai.engine.sequence import Job
from genai.errors import ConfigError
from genai.generation_config import GenerationConfig
from tests.engine.test_engine import EOS, config, engine_with, prompts, run
from tests.fakes import FakeRunner, greedy_continuation, next_logits


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
