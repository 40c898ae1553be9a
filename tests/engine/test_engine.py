"""The decoding loop over a fake model that reads its cache: alone, batched, chunked, short of room, interrupted."""

from __future__ import annotations

import random

import pytest

from genai.config import GenerationConfig
from genai.engine.engine import Engine, EngineLimits
from genai.engine.sequence import Sequence
from genai.errors import CapacityError, ConfigError, GraphRunError
from tests.fakes import VOCAB_SIZE, FakeRunner, greedy_continuation

EOS = 7


def engine_with(
    *, num_slots: int = 4096, max_batch: int = 4, max_seq_len: int = 512, chunk: int = 16, fail_at: int | None = None
) -> tuple[Engine, FakeRunner]:
    runner = FakeRunner(num_slots, fail_at)
    limits = EngineLimits(max_batch=max_batch, max_seq_len=max_seq_len, prefill_chunk=chunk)
    return Engine(runner, limits, (EOS,)), runner  # type: ignore[arg-type]


def config(num_tokens: int | None = 20, **options: object) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=num_tokens).updated(ignore_eos=True, **options)


def run(engine: Engine) -> list[Sequence]:
    """Step until nothing is left; returns sequences in the order in which they ended."""
    ended = []
    while engine.has_work:
        events = engine.step()
        ended += [event.sequence for event in events if event.finish_reason]
    return ended


def prompts(count: int, longest: int = 60) -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, longest))] for _ in range(count)]


def test_one_sequence_says_what_the_model_says() -> None:
    engine, _ = engine_with()
    sequence = engine.submit([1, 2, 3], config(30))
    run(engine)
    assert sequence.generated == greedy_continuation([1, 2, 3], 30)
    assert sequence.finish_reason == "length"


def test_many_ragged_sequences_each_say_what_they_say_alone() -> None:
    engine, runner = engine_with()
    sequences = [engine.submit(prompt, config(5 + index)) for index, prompt in enumerate(prompts(12))]
    ended = run(engine)
    assert sorted(map(id, ended)) == sorted(map(id, sequences)), "each ends exactly once"
    for index, sequence in enumerate(sequences):
        assert sequence.generated == greedy_continuation(prompts(12)[index], 5 + index)
    assert len(runner.cache.rows) == 1, "only the last row is kept"


def test_prefill_goes_in_chunks_and_lets_others_decode_between_them() -> None:
    engine, runner = engine_with(chunk=8)
    first = engine.submit([5], config(40))
    engine.step()
    long = engine.submit(list(range(60)), config(2))
    before = len(first.generated)
    while not long.generated:
        engine.step()
    assert runner.longest_run == 8
    assert len(first.generated) - before == 8, "one token for each of the 8 chunks"
    run(engine)
    assert long.generated == greedy_continuation(range(60), 2)


def test_end_of_sequence_and_its_switch() -> None:
    prompt = next(p for p in ([n] for n in range(VOCAB_SIZE)) if EOS in greedy_continuation(p, 60)[:-1])
    whole = greedy_continuation(prompt, 60)
    engine, _ = engine_with()
    stopped = engine.submit(prompt, GenerationConfig(max_new_tokens=60))
    ignoring = engine.submit(prompt, config(60))
    other = engine.submit(prompt, GenerationConfig(max_new_tokens=60, eos_token_ids=(whole[2],)))
    run(engine)
    assert stopped.generated == whole[: whole.index(EOS) + 1]
    assert stopped.finish_reason == "stop"
    assert ignoring.generated == whole
    assert other.generated == whole[: whole.index(whole[2]) + 1]


def test_first_come_first_served_when_rows_are_few() -> None:
    engine, _ = engine_with(max_batch=2)
    sequences = [engine.submit([n], config(3)) for n in range(6)]
    assert run(engine) == sequences


def test_a_sequence_that_does_not_fit_beside_the_others_waits() -> None:
    engine, runner = engine_with(num_slots=256, max_seq_len=256)
    small = [engine.submit([n], config(4)) for n in range(2)]
    large = engine.submit(list(range(97)) + list(range(80)), config(4))
    engine.step()
    assert large.row is None
    run(engine)
    assert large.generated == greedy_continuation([*range(97), *range(80)], 4)
    assert [sequence.generated for sequence in small] == [greedy_continuation([n], 4) for n in range(2)]
    runner.cache.check_integrity()


def test_running_out_of_room_ends_a_sequence_with_length() -> None:
    engine, _ = engine_with(num_slots=128, max_seq_len=128)
    sequences = [engine.submit([n] * 50, config(None)) for n in range(2)]
    ended = run(engine)
    assert {sequence.finish_reason for sequence in ended} == {"length"}
    lengths = sorted(len(sequence.generated) for sequence in sequences)
    assert lengths[0] >= 14, "both had 64 slots"
    assert lengths[1] == 128 - 50, "the other one got the whole arena"
    for n, sequence in enumerate(sequences):
        assert sequence.generated == greedy_continuation([n] * 50, len(sequence.generated))


def test_the_context_limit_ends_a_sequence() -> None:
    engine, _ = engine_with(max_seq_len=32)
    sequence = engine.submit([1] * 10, config(None))
    run(engine)
    assert len(sequence.tokens) == 32


@pytest.mark.parametrize("common", [0, 1, 20, 49, 50, 55])
def test_a_continued_conversation_prefills_only_what_is_new(common: int) -> None:
    engine, runner = engine_with()
    first = engine.submit(list(range(50)), config(10))
    run(engine)
    prompt = first.tokens[:common] + [90, 91, 92]
    second = engine.submit(prompt, config(10))
    run(engine)
    assert second.num_cached == common
    assert second.generated == greedy_continuation(prompt, 10)
    assert len(runner.cache.rows) == 1


def test_the_same_prompt_again_runs_its_last_token_only() -> None:
    engine, runner = engine_with()
    engine.submit(list(range(50)), config(1))
    run(engine)
    runs = runner.num_runs
    again = engine.submit(list(range(50)), config(1))
    run(engine)
    assert again.num_cached == 49
    assert runner.num_runs == runs + 1
    assert again.generated == greedy_continuation(range(50), 1)


def test_finishing_frees_the_row_and_leaves_the_others_alone() -> None:
    engine, runner = engine_with()
    sequences = [engine.submit([n] * 5, config(30)) for n in range(3)]
    waiting = engine.submit([1], config(30))
    for _ in range(5):
        engine.step()
    engine.finish(sequences[0], "cancelled")
    engine.finish(sequences[0], "stop")
    assert sequences[0].finish_reason == "cancelled", "the first reason stays"
    assert len(runner.cache.rows) == 3
    run(engine)
    for sequence, prompt in zip([*sequences[1:], waiting], ([1] * 5, [2] * 5, [1]), strict=True):
        assert sequence.generated == greedy_continuation(prompt, 30)


def test_a_waiting_sequence_can_be_cancelled() -> None:
    engine, _ = engine_with(max_batch=1)
    engine.submit([1], config(3))
    waiting = engine.submit([2], config(3))
    engine.step()
    engine.finish(waiting, "cancelled")
    assert waiting not in run(engine)
    assert waiting.generated == []


@pytest.mark.parametrize("fail_at", range(8))
def test_a_failed_run_ends_everything_and_the_engine_goes_on(fail_at: int) -> None:
    engine, runner = engine_with(fail_at=fail_at)
    sequences = [engine.submit([n] * 20, config(5)) for n in range(3)]
    with pytest.raises(GraphRunError, match="injected"):
        run(engine)
    assert all(sequence.finish_reason for sequence in sequences)
    assert not engine.has_work
    assert runner.cache.rows == ()
    runner._fail_at = None
    again = engine.submit([4], config(5))
    run(engine)
    assert again.generated == greedy_continuation([4], 5)


def test_random_mixes_with_cancels_in_a_small_cache() -> None:
    rng = random.Random(1)
    engine, runner = engine_with(num_slots=512, max_seq_len=200, chunk=7, max_batch=5)
    alive: list[tuple[Sequence, list[int], int]] = []
    for prompt in prompts(80, longest=90):
        num_tokens = rng.randint(1, 40)
        alive.append((engine.submit(prompt, config(num_tokens)), prompt, num_tokens))
        for _ in range(rng.randint(0, 12)):
            engine.step()
        if rng.random() < 0.2:
            engine.finish(rng.choice(alive)[0], "cancelled")
    run(engine)
    reasons = [sequence.finish_reason for sequence, _, _ in alive]
    assert reasons.count("length") > 40
    for sequence, prompt, num_tokens in alive:
        assert sequence.finish_reason is not None
        assert sequence.generated == greedy_continuation(prompt, num_tokens)[: len(sequence.generated)]
    assert len(runner.cache.rows) <= 1


def test_seeds_give_the_same_text_alone_and_in_a_batch() -> None:
    alone = []
    for seed in range(4):
        engine, _ = engine_with()
        alone.append(engine.submit([seed] * 9, config(15, rng_seed=seed, temperature=1.5)))
        run(engine)
    engine, _ = engine_with()
    batched = [engine.submit([seed] * 9, config(15, rng_seed=seed, temperature=1.5)) for seed in range(4)]
    run(engine)
    assert [s.generated for s in batched] == [s.generated for s in alone]
    assert batched[0].generated != greedy_continuation([0] * 9, 15)


def test_logprobs_are_the_models() -> None:
    engine, _ = engine_with()
    sequence = engine.submit([1], config(5, logprobs=True, temperature=3.0, rng_seed=0))
    run(engine)
    from genai.decoding.processors import log_probability
    from tests.fakes import next_logits

    expected = [log_probability(next_logits(sequence.tokens[: 1 + i]), sequence.tokens[1 + i]) for i in range(5)]
    assert sequence.logprobs == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        ([], ConfigError, "no tokens"),
        ([1, VOCAB_SIZE], ConfigError, f"token id {VOCAB_SIZE} is outside"),
        ([-1], ConfigError, "token id -1 is outside"),
        ([1] * 512, CapacityError, "512 tokens; at most 511 fit"),
    ],
)
def test_bad_prompts_are_refused_at_once(prompt: list[int], error: type[Exception], message: str) -> None:
    engine, _ = engine_with()
    with pytest.raises(error, match=message):
        engine.submit(prompt, config())
    assert not engine.has_work
