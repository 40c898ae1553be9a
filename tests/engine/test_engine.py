"""The decoding loop over a fake model that reads its cache: alone, batched, chunked, short of room, interrupted."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable

import pytest

from genai.engine.engine import Engine
from genai.engine.prefix_cache import PrefixCache
from genai.engine.request import Request
from genai.engine.scheduler import Limits
from genai.engine.sequence import Sequence, State, Timeline, TokenEvent
from genai.errors import CapacityError, ConfigError, QueueFullError
from genai.metrics import EngineMetrics
from genai.options.generation_config import GenerationConfig
from genai.runtime.capacity import CapacityPolicy, StepCost
from tests.engine.conftest import WITHOUT_STATES
from tests.fakes import VOCAB_SIZE, FakeRunner, greedy_continuation, num_reserved, shape

pytestmark = pytest.mark.usefixtures("each_memory")

EOS = 7


def engine_with(
    *,
    num_slots: int = 4096,
    max_batch: int = 4,
    max_seq_len: int = 512,
    chunk: int = 16,
    fails: Callable[[int], bool] = lambda run: False,
    prefix_bytes: int = 0,
    max_waiting: int | None = None,
    poison: tuple[int, ...] = (),
    num_adapters: int = 0,
) -> tuple[Engine, FakeRunner]:
    runner = FakeRunner(num_slots, fails, poison, max_batch=max_batch, num_adapters=num_adapters)
    limits = Limits(max_batch=max_batch, max_seq_len=max_seq_len, prefill_chunk=chunk, max_waiting=max_waiting)
    prefixes = PrefixCache(b"fake", shape().slot_bytes, prefix_bytes, shape().state_bytes)
    return Engine(runner, limits, (EOS,), prefixes, EngineMetrics("fake")), runner  # type: ignore[arg-type]


def config(num_tokens: int | None = 20, **options: object) -> GenerationConfig:
    return GenerationConfig(max_new_tokens=num_tokens).updated(ignore_eos=True, **options)


def run(engine: Engine) -> list[Sequence]:
    """Step until nothing is left; returns sequences in the order in which they ended."""
    ended = []
    while engine.has_work:
        events = engine.step()
        ended += [event.sequence for event in events if event.finish_reason]
    return ended


def submit(engine: Engine, prompt: list[int], settings: GenerationConfig, **options: object) -> Sequence:
    return engine.submit(Request(prompt=prompt, config=settings, **options)).first  # type: ignore[arg-type]


def prompts(count: int, longest: int = 60) -> list[list[int]]:
    rng = random.Random(0)
    return [[rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, longest))] for _ in range(count)]


def test_one_sequence_says_what_the_model_says() -> None:
    engine, _ = engine_with()
    sequence = submit(engine, [1, 2, 3], config(30))
    run(engine)
    assert sequence.generated == greedy_continuation([1, 2, 3], 30)
    assert sequence.finish_reason == "length"


def test_many_ragged_sequences_each_say_what_they_say_alone() -> None:
    engine, runner = engine_with()
    sequences = [submit(engine, prompt, config(5 + index)) for index, prompt in enumerate(prompts(12))]
    ended = run(engine)
    assert sorted(map(id, ended)) == sorted(map(id, sequences)), "each ends exactly once"
    for index, sequence in enumerate(sequences):
        assert sequence.generated == greedy_continuation(prompts(12)[index], 5 + index)
    assert runner.cache.rows == (), "every row is freed"


def test_prefill_goes_in_chunks_and_lets_others_decode_between_them() -> None:
    engine, runner = engine_with(chunk=8)
    first = submit(engine, [5], config(40))
    engine.step()
    long = submit(engine, list(range(60)), config(2))
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
    stopped = submit(engine, prompt, GenerationConfig(max_new_tokens=60))
    ignoring = submit(engine, prompt, config(60))
    other = submit(engine, prompt, GenerationConfig(max_new_tokens=60, eos_token_ids=(whole[2],)))
    run(engine)
    assert stopped.generated == whole[: whole.index(EOS) + 1]
    assert stopped.finish_reason == "stop"
    assert ignoring.generated == whole
    assert other.generated == whole[: whole.index(whole[2]) + 1]


def test_first_come_first_served_when_rows_are_few() -> None:
    engine, _ = engine_with(max_batch=2)
    sequences = [submit(engine, [n], config(3)) for n in range(6)]
    assert run(engine) == sequences


def test_a_sequence_that_does_not_fit_beside_the_others_waits() -> None:
    engine, runner = engine_with(num_slots=256, max_seq_len=256)
    small = [submit(engine, [n] * 40, config(4)) for n in range(2)]
    large = submit(engine, list(range(97)) + list(range(80)), config(4))
    engine.step()
    assert large.row is None
    run(engine)
    assert large.generated == greedy_continuation([*range(97), *range(80)], 4)
    assert [sequence.generated for sequence in small] == [greedy_continuation([n] * 40, 4) for n in range(2)]
    runner.cache.check_integrity()


def test_running_out_of_room_ends_the_last_sequence_with_length() -> None:
    engine, _ = engine_with(num_slots=128 + num_reserved(), max_seq_len=128)
    sequences = [submit(engine, [n] * 50, config(None)) for n in range(2)]
    ended = run(engine)
    assert {sequence.finish_reason for sequence in ended} == {"length"}
    assert [len(sequence.generated) for sequence in sequences] == [78, 78], "one after the other got the whole arena"
    for n, sequence in enumerate(sequences):
        assert sequence.generated == greedy_continuation([n] * 50, len(sequence.generated))


def test_the_context_limit_ends_a_sequence() -> None:
    engine, _ = engine_with(max_seq_len=32)
    sequence = submit(engine, [1] * 10, config(None))
    run(engine)
    assert len(sequence.tokens) == 32


@pytest.mark.parametrize("common", [0, 1, 15, 16, 31, 50, 59])
def test_a_prompt_that_begins_like_an_earlier_text_prefills_the_rest(common: int) -> None:
    engine, runner = engine_with(prefix_bytes=10**6)
    first = submit(engine, list(range(50)), config(10))
    run(engine)
    prompt = [*first.tokens[:common], 90, 91, 92]
    second = submit(engine, prompt, config(10))
    run(engine)
    is_idle_row_taken_up = 2 * common >= 59  # or else whole blocks are copied, and it stays for who began so
    if runner.cache.window is not None:  # which sees what is gone by then
        is_idle_row_taken_up = common == 59
    expected = common if is_idle_row_taken_up else common // 16 * 16
    if runner.cache.has_states:  # which are those after all of it
        expected = common if common == 59 else 0
    assert second.num_cached == expected
    assert second.generated == greedy_continuation(prompt, 10)
    assert runner.cache.rows == ()


@pytest.mark.parametrize("each_memory", WITHOUT_STATES, indirect=True)
def test_the_same_prompt_again_runs_its_last_tokens_only() -> None:
    engine, runner = engine_with(prefix_bytes=10**6)
    submit(engine, list(range(48)), config(1))
    run(engine)
    runs = runner.num_runs
    again = submit(engine, list(range(48)), config(1))
    run(engine)
    assert again.num_cached == 47, "its last token gives the logits"
    assert runner.num_runs == runs + 1
    assert again.generated == greedy_continuation(range(48), 1)


@pytest.mark.parametrize("each_memory", WITHOUT_STATES, indirect=True)
def test_a_running_prompt_serves_others_at_once() -> None:
    engine, _ = engine_with(prefix_bytes=10**6, chunk=64)
    submit(engine, list(range(40)), config(50))
    engine.step()
    second = submit(engine, [*range(40), 3], config(5))
    run(engine)
    assert second.num_cached == 32
    assert second.generated == greedy_continuation([*range(40), 3], 5)


def test_cancelling_frees_the_row_and_leaves_the_others_alone() -> None:
    engine, runner = engine_with()
    sequences = [submit(engine, [n] * 5, config(30)) for n in range(3)]
    waiting = submit(engine, [1], config(30))
    for _ in range(5):
        engine.step()
    engine.cancel(sequences[0].job)
    engine.cancel(sequences[0].job)
    events = engine.settle()
    assert [(event.sequence, event.finish_reason) for event in events] == [(sequences[0], "cancelled")]
    assert len(runner.cache.rows) == 3
    run(engine)
    for sequence, prompt in zip([*sequences[1:], waiting], ([1] * 5, [2] * 5, [1]), strict=True):
        assert sequence.generated == greedy_continuation(prompt, 30)


def test_a_waiting_sequence_can_be_cancelled() -> None:
    engine, _ = engine_with(max_batch=1)
    submit(engine, [1], config(3))
    waiting = submit(engine, [2], config(3))
    engine.step()
    engine.cancel(waiting.job)
    assert [sequence.finish_reason for sequence in run(engine)] == ["cancelled", "length"]
    assert waiting.generated == []


def test_deadlines_end_waiting_and_running_sequences() -> None:
    engine, runner = engine_with(max_batch=1)
    running = submit(engine, [1], config(400), timeout=0.05)
    waiting = submit(engine, [2], config(400), timeout=0.05)
    patient = submit(engine, [3], config(4), timeout=60.0)
    engine.step()
    time.sleep(0.06)
    ended = run(engine)
    assert {running, waiting} == set(ended[:2])
    assert [sequence.finish_reason for sequence in ended] == ["timeout", "timeout", "length"]
    assert patient.generated == greedy_continuation([3], 4)
    assert runner.cache.rows == ()


def test_a_full_queue_refuses() -> None:
    engine, _ = engine_with(max_batch=1, max_waiting=2)
    accepted = [submit(engine, [n], config(3)) for n in range(2)]
    with pytest.raises(QueueFullError, match="2 requests are waiting"):
        submit(engine, [5], config(3))
    engine.step()
    accepted.append(submit(engine, [5], config(3)))
    assert run(engine) == accepted


def test_priorities_come_first_and_waiting_raises_them() -> None:
    engine, _ = engine_with(max_batch=1)
    low = submit(engine, [1], config(2), priority=5)
    high = submit(engine, [2], config(2), priority=-5)
    normal = submit(engine, [3], config(2))
    starved = submit(engine, [4], config(2), priority=9)
    starved.timeline = Timeline(submitted=starved.timeline.submitted - 200)  # it has waited for 20 levels
    assert run(engine) == [starved, high, normal, low]


def test_a_paused_sequence_keeps_its_row_and_does_not_run() -> None:
    engine, _ = engine_with()
    paused, other = submit(engine, [1] * 20, config(20)), submit(engine, [2] * 20, config(20))
    for _ in range(6):
        engine.step()
    paused.pause(State.READER_BEHIND)
    length = len(paused.tokens)
    while other.finish_reason is None:
        engine.step()
    assert len(paused.tokens) == length
    engine.step()
    assert engine.is_stalled
    paused.resume()
    run(engine)
    assert paused.generated == greedy_continuation([1] * 20, 20)


class Recorder:
    """A sink that stops at a token, or raises there."""

    def __init__(self, stop_at: int | None = None, *, fails: bool = False) -> None:
        self.stop_at, self.fails = stop_at, fails
        self.delivered: list[TokenEvent] = []

    def accept(self, event: TokenEvent) -> bool:
        if event.token == self.stop_at and self.fails:
            raise RuntimeError("a reader's bug")
        return event.token == self.stop_at

    def deliver(self, event: TokenEvent) -> None:
        assert event.finish_reason == event.sequence.finish_reason, "final when delivered"
        self.delivered.append(event)


@pytest.mark.parametrize("fails", [False, True])
def test_a_sink_ends_its_own_sequence_only(fails: bool) -> None:
    whole = greedy_continuation([1], 20)
    engine, _ = engine_with()
    sink = Recorder(whole[4], fails=fails)
    stopped = submit(engine, [1], config(20), sink=sink)
    other = submit(engine, [1], config(20))
    run(engine)
    assert stopped.generated == whole[: whole.index(whole[4]) + 1]
    assert stopped.finish_reason == ("error" if fails else "stop")
    assert ("a reader's bug" in str(stopped.error)) == fails
    assert [event.token for event in sink.delivered] == stopped.generated
    assert other.generated == whole


@pytest.mark.parametrize("fail_at", range(10))
def test_a_failed_run_ends_those_in_it_and_the_others_go_on(fail_at: int) -> None:
    engine, runner = engine_with(fails=lambda run: run == fail_at)
    sequences = [submit(engine, [n] * 20, config(5)) for n in range(3)]
    ended = run(engine)
    assert Counter(map(id, ended)) == Counter(map(id, sequences)), "each ends exactly once"
    reasons = Counter(sequence.finish_reason for sequence in sequences)
    assert reasons["error"] >= 1
    for n, sequence in enumerate(sequences):
        assert (sequence.error is not None) == (sequence.finish_reason == "error")
        if sequence.finish_reason == "length":
            assert sequence.generated == greedy_continuation([n] * 20, 5)
    assert not engine.has_work
    assert runner.cache.rows == ()
    again = submit(engine, [4], config(5))
    run(engine)
    assert again.generated == greedy_continuation([4], 5)


def test_memory_that_runs_out_preempts_the_youngest_which_resumes_with_the_same_text() -> None:
    engine, runner = engine_with(num_slots=256, max_seq_len=250, chunk=64)
    runner.cache.policy = CapacityPolicy(headroom=0)
    sequences = [submit(engine, [n] * 30, config(80)) for n in range(3)]
    run(engine)
    for n, sequence in enumerate(sequences):
        assert sequence.generated == greedy_continuation([n] * 30, 80)
        assert sequence.finish_reason == "length"
    assert sequences[0].timeline.num_preemptions == 0, "the oldest never gives way"
    assert sum(sequence.timeline.num_preemptions for sequence in sequences) > 0
    assert runner.cache.rows == ()


def test_a_long_row_does_not_share_a_group_with_short_ones() -> None:
    engine, runner = engine_with(num_slots=20_000, max_seq_len=4096, max_batch=8, chunk=4096)
    long = submit(engine, [1] * 3900, config(60))
    short = [submit(engine, [n] * 10, config(60)) for n in range(7)]
    while not long.generated or not all(text.generated for text in short):
        engine.step()
    engine.step()
    assert {capacity for _, capacity in runner.group_sizes[-2:]} == {80, 4096}
    run(engine)
    assert long.generated == greedy_continuation([1] * 3900, 60)
    assert [sequence.generated for sequence in short] == [greedy_continuation([n] * 10, 60) for n in range(7)]


def test_metrics_add_up() -> None:
    engine, _ = engine_with(prefix_bytes=10**6)
    for n in range(3):
        submit(engine, [1] * 40 + [n], config(10))
    cancelled = submit(engine, [5] * 40, config(10), priority=-1)
    engine.step()
    engine.cancel(cancelled.job)
    run(engine)
    assert engine._metrics is not None
    value = engine._metrics.registry.get_sample_value
    label = {"model": "fake"}
    assert value("genai_generated_tokens_total", label) == 30
    assert value("genai_prompt_tokens_total", label) == 3 * 41 + 40
    assert value("genai_time_to_first_token_seconds_count", label) == 3
    assert value("genai_inter_token_latency_seconds_count", label) == 27
    assert value("genai_requests_total", {**label, "finish_reason": "length"}) == 3
    assert value("genai_requests_total", {**label, "finish_reason": "cancelled"}) == 1
    assert value("genai_requests_running", label) == 0


@pytest.mark.parametrize("seed", range(4))
def test_random_mixes_give_exactly_the_text_that_each_gives_alone(seed: int) -> None:
    """Hundreds of requests: cancels, failures, priorities, shared prefixes, and a cache that is small."""
    rng = random.Random(seed)
    engine, runner = engine_with(
        num_slots=rng.choice([256, 512, 1500]),
        max_seq_len=220,
        chunk=rng.choice([7, 32, 64]),
        max_batch=rng.choice([2, 5, 8]),
        prefix_bytes=rng.choice([0, 3000, 10**6]),
        fails=lambda run: run % 97 == 50,
    )
    shared = [[rng.randrange(VOCAB_SIZE) for _ in range(48)] for _ in range(3)]
    alive: list[tuple[Sequence, list[int], int]] = []
    ended: Counter[int] = Counter()
    for tail in prompts(150, longest=90):
        prompt = rng.choice(shared)[: rng.randint(0, 48)] + tail
        num_tokens = rng.randint(1, 40)
        alive.append((submit(engine, prompt, config(num_tokens), priority=rng.randint(-1, 1)), prompt, num_tokens))
        for _ in range(rng.randint(0, 14)):
            ended.update(id(event.sequence) for event in engine.step() if event.finish_reason)
        if rng.random() < 0.15:
            engine.cancel(rng.choice(alive)[0].job)
    ended.update(map(id, run(engine)))
    assert ended == Counter({id(sequence): 1 for sequence, _, _ in alive}), "each ends exactly once"
    assert runner.cache.rows == ()
    reasons = Counter(sequence.finish_reason for sequence, _, _ in alive)
    assert reasons["length"] > 70, reasons
    for sequence, prompt, num_tokens in alive:
        expected = greedy_continuation(prompt, num_tokens)
        assert sequence.generated == expected[: len(sequence.generated)]
        if sequence.finish_reason == "length":
            assert sequence.generated == expected


def test_seeds_give_the_same_text_alone_and_in_a_batch() -> None:
    alone = []
    for seed in range(4):
        engine, _ = engine_with()
        alone.append(submit(engine, [seed] * 9, config(15, rng_seed=seed, temperature=1.5)))
        run(engine)
    engine, _ = engine_with()
    batched = [submit(engine, [seed] * 9, config(15, rng_seed=seed, temperature=1.5)) for seed in range(4)]
    run(engine)
    assert [s.generated for s in batched] == [s.generated for s in alone]
    assert batched[0].generated != greedy_continuation([0] * 9, 15)


def test_logprobs_are_the_models() -> None:
    engine, _ = engine_with()
    sequence = submit(engine, [1], config(5, logprobs=True, temperature=3.0, rng_seed=0))
    run(engine)
    from genai.decoding.processors import log_softmax
    from tests.fakes import next_logits

    expected = [log_softmax(next_logits(sequence.tokens[: 1 + i]))[sequence.tokens[1 + i]] for i in range(5)]
    assert [each.logprob for each in sequence.logprobs] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("prompt", "error", "message"),
    [
        ([], ConfigError, "no tokens"),
        ([1, VOCAB_SIZE], ConfigError, f"token id {VOCAB_SIZE} is outside"),
        ([-1], ConfigError, "token id -1 is outside"),
        ([1] * 512, CapacityError, "512 tokens; at most 511 leave room"),
    ],
)
def test_bad_prompts_are_refused_at_once(prompt: list[int], error: type[Exception], message: str) -> None:
    engine, _ = engine_with()
    with pytest.raises(error, match=message):
        submit(engine, prompt, config())
    assert not engine.has_work


def test_short_prompts_share_a_run_where_that_is_cheaper() -> None:
    prompts = [[n, n + 1, n + 2] for n in range(6)] + [[9] * 40]
    engine, runner = engine_with(max_batch=8, chunk=64)
    texts = [submit(engine, prompt, config(8)) for prompt in prompts]
    engine.step()
    assert runner.prefill_sizes == [6], "one pass over the weights for all that are alike"
    run(engine)
    assert [text.generated for text in texts] == [greedy_continuation(prompt, 8) for prompt in prompts]
    engine, runner = engine_with(max_batch=8, chunk=64)
    runner.cache.policy = CapacityPolicy(cost=StepCost(weights=1e-9, row=1e-3, slot=1e-5))
    submit(engine, [1, 2], config(2))
    submit(engine, [3, 4, 5, 6], config(2))
    run(engine)
    assert runner.prefill_sizes == [], "padding would cost more than a pass"


def test_a_failed_run_of_several_prompts_ends_those_in_it_and_no_other() -> None:
    failing = [False]
    engine, runner = engine_with(fails=lambda run: failing[0])
    other = submit(engine, [1] * 5, config(12))
    engine.step()
    failing[0] = True
    broken = [submit(engine, [n, n], config(5)) for n in (2, 3)]
    runner.fails = lambda run, first=runner.num_runs: run == first  # type: ignore[misc]
    run(engine)
    assert [text.finish_reason for text in broken] == ["error", "error"]
    assert other.generated == greedy_continuation([1] * 5, 12)
    assert runner.cache.rows == ()
    assert not runner.prefill_sizes


@pytest.mark.parametrize("each_memory", WITHOUT_STATES, indirect=True)
def test_prompts_that_begin_alike_are_run_once() -> None:
    """The second waits for what the first one leaves in the prefix cache, as long as that is the shorter way."""
    shared = list(range(64))
    engine, _ = engine_with(max_batch=8, chunk=64, prefix_bytes=10**6)
    texts = [submit(engine, [*shared, 90 + n, 1, 2], config(4)) for n in range(3)]
    run(engine)
    assert [text.num_cached for text in texts] == [0, 64, 64]
    for n, text in enumerate(texts):
        assert text.generated == greedy_continuation([*shared, 90 + n, 1, 2], 4)
    long = submit(engine, [*[50] * 16, *range(97), *range(97), *range(97)], config(4))
    engine.step()
    short = submit(engine, [*[50] * 16, 1, 2, 3, 4], config(4))
    engine.step()
    assert short.generated, "the long one would keep it waiting"
    assert not long.generated
    run(engine)


def test_a_prompt_whose_beginning_is_known_counts_as_short() -> None:
    engine, _ = engine_with(max_batch=8, chunk=32, prefix_bytes=10**6)
    history = [n % VOCAB_SIZE for n in range(400)]
    submit(engine, history, config(1))
    run(engine)
    cold = submit(engine, [5] * 300, config(2))
    engine.step()
    turn = submit(engine, [*history, 1, 2, 3], config(2))
    engine.step()
    assert turn.generated
    assert not cold.generated
    run(engine)
