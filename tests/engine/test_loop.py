"""One thread for all who want something of an engine: threads, coroutines and owners of manual texts, at once."""

from __future__ import annotations

import asyncio
import random
import signal
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import numpy as np
import pytest

from genai.engine.engine import Engine
from genai.engine.loop import EngineLoop
from genai.engine.prefix_cache import PrefixCache
from genai.engine.request import Request
from genai.engine.scheduler import Limits
from genai.engine.sequence import Job, State
from genai.engine.streams import Follower, Streams
from genai.errors import CapacityError, ConfigError
from genai.options.generation_config import GenerationConfig
from tests.engine import test_mixes as mixes
from tests.engine.test_streams import Reader, SlowRunner, request, tokens_of
from tests.fakes import greedy_continuation, next_logits, shape


@contextmanager
def loop_of(
    *, seconds: float = 0.0, num_slots: int = 4096, max_batch: int = 8
) -> Iterator[tuple[EngineLoop, SlowRunner]]:
    runner = SlowRunner(num_slots, seconds)
    limits = Limits(max_batch=max_batch, max_seq_len=500, prefill_chunk=32)
    prefixes = PrefixCache(b"fake", shape().slot_bytes, 10**5, shape().state_bytes)
    loop = EngineLoop(Engine(runner, limits, (), prefixes), runner)  # type: ignore[arg-type]
    try:
        yield loop, runner
    finally:
        loop.close()
        assert runner.cache.rows == ()


@dataclass
class Waiter:
    """A thread's request."""

    loop: EngineLoop
    job: Job
    end: threading.Event

    @classmethod
    def of(cls, loop: EngineLoop, asked: Request) -> Waiter:
        end = threading.Event()
        return cls(loop, loop.submit(asked, Follower(Reader(), end.set)), end)

    def text(self) -> list[int]:
        self.loop.wait(self.end)
        if self.job.error is not None:
            raise self.job.error
        return self.job.first.generated


def step_by_step(loop: EngineLoop, prompt: list[int], count: int) -> list[int]:
    """As `Generator` does it."""
    asked = Request(prompt=prompt, config=GenerationConfig(), is_manual=True)
    sequence = loop.call(lambda engine: engine.submit(asked)).first

    def pick(engine: Engine) -> int:
        if sequence.error is not None:
            raise sequence.error
        return engine.pick(sequence)

    tokens = [loop.call(pick, lambda engine: engine.demand(sequence)) for _ in range(count)]
    assert sequence.job is not None
    loop.cancel(sequence.job)
    return tokens


def together(works: list[Callable[[], object]]) -> list[object]:
    """What each gives, or raises, in a thread of its own; nobody hangs."""
    outcomes: dict[int, object] = {}

    def run(number: int, work: Callable[[], object]) -> None:
        try:
            outcomes[number] = work()
        except Exception as error:
            outcomes[number] = error

    threads = [threading.Thread(target=run, args=each, daemon=True) for each in enumerate(works)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive(), "it hangs"
    return [outcomes[number] for number in range(len(works))]


def coroutines(loop: EngineLoop, prompts: list[list[int]], count: int) -> object:
    """What each of several streams gives in one event loop."""

    async def read(stream: object) -> list[int] | Exception:
        try:
            return await tokens_of(stream)  # type: ignore[arg-type]
        except ConfigError as error:
            return error

    async def main() -> list[list[int] | Exception]:
        streams = Streams(loop)
        return list(await asyncio.gather(*(read(streams.submit(request(each, count), Reader())) for each in prompts)))

    return asyncio.run(asyncio.wait_for(main(), 60))


def test_threads_coroutines_and_owners_of_manual_texts_run_in_one_batch() -> None:
    with loop_of(seconds=0.002) as (loop, runner):
        works: list[Callable[[], object]] = [lambda n=n: Waiter.of(loop, request([n], 40)).text() for n in range(3)]
        works += [lambda n=n: step_by_step(loop, [n], 40) for n in range(3, 5)]
        works.append(lambda: coroutines(loop, [[5], [6], [7]], 40))
        *texts, streamed = together(works)
        assert texts == [greedy_continuation([n], 40) for n in range(5)]
        assert streamed == [greedy_continuation([n], 40) for n in range(5, 8)]
        assert max(rows for rows, _ in runner.group_sizes) > 5, "one step ran texts of all three kinds"
        assert runner.num_runs < 8 * 40 / 2


def test_each_waiter_of_a_loop_that_is_closed_gets_an_error_of_its_own() -> None:
    with loop_of(seconds=0.002, max_batch=3) as (loop, runner):
        works: list[Callable[[], object]] = [lambda n=n: Waiter.of(loop, request([n], 400)).text() for n in range(3)]
        works += [lambda: step_by_step(loop, [3], 400), lambda: coroutines(loop, [[4], [5]], 400)]

        def close() -> None:
            while runner.num_runs < 20:
                time.sleep(0.001)
            loop.close()

        *errors, streamed, _, _ = together([*works, close, close])
        assert isinstance(streamed, list)
        errors += streamed
        assert len(set(map(id, errors))) == len(errors) == 6
        for error in errors:
            assert isinstance(error, ConfigError)
            assert "this model was closed" in str(error) or "this model is closed" in str(error)
        assert loop._thread is not None
        assert not loop._thread.is_alive()
        uses: list[Callable[[], object]] = [
            lambda: Waiter.of(loop, request([1])),
            lambda: loop.call(lambda engine: engine),
            lambda: loop.engine,
        ]
        for use in uses:
            with pytest.raises(ConfigError, match="this model is closed; load it again"):
                use()
        loop.settle()
        loop.cancel(Job(sequences=()))


def test_the_engine_is_free_when_its_loop_is_closed_though_others_hold_the_loop() -> None:
    for is_begun in (False, True):
        with loop_of() as (loop, runner):
            engine = weakref.ref(loop.engine)
            if is_begun:
                job = Waiter.of(loop, request([1], 400)).job
            loop.close()
            assert engine() is None
            with loop.drafting.unless_busy() as found:
                assert found is None
            assert not is_begun or job.is_over
            assert runner.cache.rows == ()


def test_errors_that_somebody_keeps_keep_no_engine() -> None:
    with loop_of() as (loop, _):
        engine, errors = weakref.ref(loop.engine), []

        def refused(use: Callable[[], object]) -> None:
            with pytest.raises(ConfigError) as caught:
                use()
            errors.append(caught.value)

        refused(lambda: Waiter.of(loop, request([])))
        refused(lambda: Waiter.of(loop, request([1] * 500)))
        refused(lambda: loop.call(lambda engine: engine.submit(request([]))))
        loop._is_closing = True  # and has not ended yet
        refused(lambda: loop.engine)
        loop.close()
        assert engine() is None
        assert len(errors) == 4


def test_what_nobody_closed_ends_when_it_is_abandoned() -> None:
    for is_begun in (False, True):
        with loop_of() as (loop, _):
            engine = weakref.ref(loop.engine)
            if is_begun:
                Waiter.of(loop, request([1], 10)).text()
            thread = loop._thread
            loop.abandon()
            if thread is not None:
                thread.join(10)
                assert not thread.is_alive()
            assert engine() is None


def test_ctrl_c_interrupts_who_waits_and_no_step() -> None:
    with loop_of(seconds=0.005) as (loop, _):
        other = Waiter.of(loop, request([1], 60))
        waiter = Waiter.of(loop, request([2], 400))
        main = threading.main_thread().ident
        assert main is not None
        threading.Timer(0.05, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            waiter.text()
        loop.cancel(waiter.job)
        loop.settle()
        assert waiter.job.first.state is State.CANCELLED
        assert other.text() == greedy_continuation([1], 60)
        assert other.job.first.state is State.LENGTH


def test_a_call_that_is_interrupted_is_not_made_later() -> None:
    with loop_of(seconds=0.1) as (loop, _):
        waiter = Waiter.of(loop, request([2], 8))
        main, made = threading.main_thread().ident, list[int]()
        assert main is not None
        threading.Timer(0.05, lambda: signal.pthread_kill(main, signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            loop.call(lambda engine: made.append(1), lambda engine: waiter.job.is_over)
        assert waiter.text() == greedy_continuation([2], 8)
        loop.settle()
        assert made == []


def test_a_call_raises_what_its_function_does_and_harms_nobody() -> None:
    with loop_of(seconds=0.001) as (loop, _):
        waiter = Waiter.of(loop, request([1], 50))
        for _ in range(5):
            with pytest.raises(ZeroDivisionError):
                loop.call(lambda engine: 1 / 0)
            with pytest.raises(KeyError):
                loop.call(lambda engine: engine, lambda engine: {}["due"])
        assert waiter.text() == greedy_continuation([1], 50)


def test_scores_are_had_beside_texts_that_run() -> None:
    with loop_of(seconds=0.001, num_slots=600) as (loop, _):
        waiter = Waiter.of(loop, request([1], 300))
        for length in (1, 30, 200):
            tokens = list(range(length))[:90] * 2
            scores = loop.call(lambda engine, tokens=tokens: engine.score(tokens))  # type: ignore[misc]
            expected = [next_logits(tokens[: end + 1]) for end in range(len(tokens))]
            np.testing.assert_array_equal(scores, expected)
        with pytest.raises(CapacityError, match="600 tokens find no room beside the texts that run"):
            loop.call(lambda engine: engine.score([1] * 600))
        assert waiter.text() == greedy_continuation([1], 300)


def test_owners_who_take_their_time_keep_no_thread_awake() -> None:
    with loop_of() as (loop, _):
        asked = Request(prompt=[1], config=GenerationConfig(), is_manual=True)
        job = loop.call(lambda engine: engine.submit(asked))
        for is_run in (False, True):
            if is_run:
                loop.call(lambda engine: None, lambda engine: engine.demand(job.first))
            loop.settle()
            time.sleep(0.05)
            assert loop._spare_seconds() is None
            assert loop.engine.has_work
        other = Waiter.of(loop, request([2], 5))
        assert other.text() == greedy_continuation([2], 5)
        loop.cancel(job)
        loop.settle()


def test_what_has_ended_stays_so() -> None:
    with loop_of() as (loop, _):
        waiter = Waiter.of(loop, request([1], 3))
        waiter.text()
        first = waiter.job.first
        for state in State:
            with pytest.raises(AssertionError, match="cannot become"):
                first.become(state)
        first.resume()
        assert first.state is State.LENGTH


@pytest.mark.parametrize("seed", range(12))
def test_whatever_several_threads_ask_for_each_text_is_the_one_it_is_alone(seed: int) -> None:
    rng = random.Random(3000 + seed)
    poison = rng.choice([(), (mixes.POISON,)])
    engine, runner = mixes.engine_with(
        num_slots=rng.choice([90, 150, 400]),
        max_batch=rng.choice([2, 4, 8]),
        max_seq_len=mixes.MAX_SEQ_LEN,
        chunk=rng.choice([3, 16]),
        prefix_bytes=rng.choice([0, 10**5]),
        poison=poison,
    )
    loop = EngineLoop(engine, runner)  # type: ignore[arg-type]
    cases = [mixes.random_case(rng, poison) for _ in range(16)]
    for case in cases:
        case.witness.rng = None
    seeds = [rng.random() for _ in cases]

    def ask(case: mixes.Case, luck: float) -> None:
        time.sleep(luck * 0.02)
        if case.request.is_manual:
            manual(loop, case, random.Random(luck))
            return
        end = threading.Event()
        case.job = loop.submit(case.request, Follower(case.witness, end.set))
        if luck > 0.8:
            case.is_disturbed = True
            loop.cancel(case.job)
        loop.wait(end)

    outcomes = together([lambda each=each: ask(*each) for each in zip(cases, seeds, strict=True)])  # type: ignore[misc]
    assert outcomes == [None] * len(cases)
    loop.settle()
    assert not engine.has_work
    assert runner.cache.rows == ()
    for case in cases:
        mixes.check(case)
    loop.close()


def manual(loop: EngineLoop, case: mixes.Case, rng: random.Random) -> None:
    """Pick tokens, going back now and then, until the text is full or its owner has enough."""
    asked = replace(case.request, sink=case.witness)
    case.job = loop.call(lambda engine: engine.submit(asked))
    sequence = case.job.first
    while not sequence.is_over and not sequence.is_full and rng.random() > 0.05:
        if rng.random() < 0.1 and sequence.generated:
            place = rng.randint(sequence.num_prompt, len(sequence.tokens))
            loop.call(lambda engine, place=place: engine.rewind(sequence, place))  # type: ignore[misc]
        else:
            loop.call(
                lambda engine: None if sequence.is_over else engine.pick(sequence),
                lambda engine: engine.demand(sequence),
            )
    loop.cancel(case.job)
    loop.settle()
