"""Tokens told while the graph runs: what may be wasted, what may not be lost, and who is woken how often."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest

from genai.decoding.processors import BoolArray
from genai.engine.beside import Beside
from genai.engine.engine import Engine
from genai.engine.loop import EngineLoop
from genai.engine.prefix_cache import PrefixCache
from genai.engine.request import Request
from genai.engine.scheduler import Limits
from genai.engine.sequence import Job, TokenEvent
from genai.engine.streams import Follower
from genai.errors import GenAIError
from genai.options.generation_config import GenerationConfig
from tests.engine.test_streams import Reader, SlowRunner, engine_of, request, run, tokens_of
from tests.fakes import VOCAB_SIZE, greedy_continuation, shape


@dataclass
class Told:
    """A sink that notes what it is told and where; stops_at: after so many tokens; hook: called with each token."""

    stops_at: int | None = None
    hook: Callable[[TokenEvent], object] = lambda event: None
    accepted: list[int | None] = field(default_factory=list)
    delivered: list[tuple[int | None, str | None]] = field(default_factory=list)
    threads: set[str] = field(default_factory=set)

    def accept(self, event: TokenEvent) -> bool:
        self.threads.add(threading.current_thread().name)
        self.accepted.append(event.token)
        return len(self.accepted) == self.stops_at

    def deliver(self, event: TokenEvent) -> None:
        self.delivered.append((event.token, event.finish_reason))
        self.hook(event)


class Stage:
    """An engine that is stepped by hand, with a thread beside it."""

    def __init__(self) -> None:
        self.runner = SlowRunner(4096, 0.0)
        limits = Limits(max_batch=8, max_seq_len=500, prefill_chunk=32)
        prefixes = PrefixCache(b"fake", shape().slot_bytes, 10**5, shape().state_bytes)
        self.engine = Engine(self.runner, limits, (), prefixes)  # type: ignore[arg-type]
        self.beside = Beside()
        self.rings = 0
        self.engine.tell_on(self.beside, self._ring)

    def _ring(self) -> None:
        self.rings += 1

    def submit(self, sink: Told, num_tokens: int = 8, **options: object) -> Job:
        config = GenerationConfig(max_new_tokens=num_tokens, ignore_eos=True).updated(**options)
        return self.engine.submit(Request(prompt=[3], config=config, sink=sink))

    def finish(self) -> None:
        while self.engine.has_work:
            self.engine.step()
        self.beside.close()
        assert self.runner.cache.rows == ()


@pytest.fixture
def stage() -> Stage:
    return Stage()


def test_a_token_is_told_while_the_next_run_is_under_way(stage: Stage) -> None:
    told, seen = threading.Event(), list[bool]()
    sink = Told(hook=lambda event: told.set())
    stage.submit(sink, 5)
    stage.engine.step()
    assert sink.delivered == []

    def in_the_run() -> None:
        seen.append(told.wait(10))
        told.clear()

    stage.runner.before = in_the_run
    stage.finish()
    expected = greedy_continuation([3], 5)
    assert seen == [True] * 4, "each run sees the token before it told"
    assert sink.delivered == [*((token, None) for token in expected[:4]), (expected[4], "length")]


@pytest.mark.parametrize("stops_at", [1, 3, 7, 8])
def test_a_stop_wastes_one_run_and_shows_no_wrong_token(stage: Stage, stops_at: int) -> None:
    expected = greedy_continuation([3], 8)
    sink, other = Told(stops_at=stops_at), Told()
    job, whole = stage.submit(sink), stage.submit(other)
    stage.finish()
    assert job.first.generated == sink.accepted == expected[:stops_at]
    assert sink.delivered == [*((token, None) for token in expected[: stops_at - 1]), (expected[stops_at - 1], "stop")]
    assert whole.first.generated == [token for token, _ in other.delivered] == expected
    alone = Stage()
    alone.submit(Told(stops_at=stops_at))
    alone.finish()
    assert alone.runner.num_runs == min(stops_at + 1, 8)


@pytest.mark.parametrize("stops_at", range(2, 9))
def test_a_stop_found_while_a_long_prompt_is_run_costs_no_run(stage: Stage, stops_at: int) -> None:
    """Steps have two runs then: the second is without the text that has ended beside the first."""
    sink = Told(stops_at=stops_at)
    job = stage.submit(sink, 12)
    stage.engine.step()
    prompt = [n % VOCAB_SIZE for n in range(320)]
    config = GenerationConfig(max_new_tokens=2, ignore_eos=True)
    long = stage.engine.submit(Request(prompt=prompt, config=config))
    stage.finish()
    assert job.first.generated == sink.accepted == greedy_continuation([3], 12)[:stops_at]
    assert long.first.generated == greedy_continuation(prompt, 2)


def test_a_text_that_stopped_is_remembered_as_it_is(stage: Stage) -> None:
    """The run that was wasted has written the last token's key: whoever goes on with the text finds all up to there."""
    sink = Told(stops_at=40)
    job = stage.submit(sink, 80)
    while stage.engine.has_work:
        stage.engine.step()
    follower = stage.engine.submit(
        Request(prompt=job.first.tokens, config=GenerationConfig(max_new_tokens=5, ignore_eos=True))
    )
    stage.finish()
    assert follower.first.num_cached == len(job.first.tokens) - 1, "all but what is always run"
    assert follower.first.generated == greedy_continuation([3], 45)[40:]


@pytest.mark.parametrize("place", ["accept", "deliver"])
def test_a_sink_that_fails_ends_its_own_text_once(stage: Stage, place: str) -> None:
    sink, other = Told(), Told()

    def fail(event: TokenEvent) -> None:
        if len(sink.accepted) == 3 and event.finish_reason is None:
            raise RuntimeError("a sink's bug")

    if place == "deliver":
        sink.hook = fail
    else:
        sink.accept = lambda event: (Told.accept(sink, event), fail(event))[0]  # type: ignore[method-assign]
    job, whole = stage.submit(sink), stage.submit(other)
    stage.finish()
    assert job.first.finish_reason == "error"
    assert "a sink's bug" in str(job.error)
    assert [reason for _, reason in sink.delivered if reason] == ["error"]
    assert sink.delivered[-1][1] == "error"
    assert whole.first.generated == greedy_continuation([3], 8)


@pytest.mark.parametrize("how", ["cancel", "fail", "deadline"])
def test_what_ends_is_told_all_its_tokens_first(stage: Stage, how: str) -> None:
    sink = Told()
    job = stage.submit(sink)
    for _ in range(4):
        stage.engine.step()
    if how == "cancel":
        stage.engine.cancel(job)
    elif how == "deadline":
        job.first.deadline = 0.0
    else:
        stage.runner.fails = lambda run: True
    stage.finish()
    expected = greedy_continuation([3], 4)
    reason = {"cancel": "cancelled", "fail": "error", "deadline": "timeout"}[how]
    assert sink.delivered == [*((token, None) for token in expected), (None, reason)]


def test_several_texts_of_a_request_have_one_last_event(stage: Stage) -> None:
    lasts = []
    sink = Told(hook=lambda event: lasts.append(event.sequence.job.is_over))  # type: ignore[union-attr]
    job = stage.submit(sink, 6, n=4, temperature=0.9, seed=3)
    stage.finish()
    assert lasts == [False] * 23 + [True]
    for sequence in job.sequences:
        assert len(sequence.generated) == 6


class Noting:
    """A constraint without effect that notes on which thread its mask is made."""

    def __init__(self, fails_at: int | None = None) -> None:
        self.threads: list[str] = []
        self.num_accepted = 0
        self.fails_at = fails_at
        self.made_for = -1

    def mask(self) -> BoolArray:
        if self.num_accepted == self.fails_at:
            raise GenAIError("too complex here")
        if self.made_for != self.num_accepted:
            self.threads.append(threading.current_thread().name)
            self.made_for = self.num_accepted
        return np.ones(VOCAB_SIZE, np.bool_)

    is_complete = False

    def accept(self, token: int) -> None:
        self.num_accepted += 1

    def forced(self) -> list[int]:
        return []

    def rollback(self, num_tokens: int) -> None:
        raise NotImplementedError

    def copy(self) -> Noting:
        return self


def test_masks_are_made_beside_the_run(stage: Stage) -> None:
    constraint = Noting()
    config = GenerationConfig(max_new_tokens=6, ignore_eos=True)
    job = stage.engine.submit(Request(prompt=[3], config=config, constraint=constraint))
    stage.finish()
    assert job.first.generated == greedy_continuation([3], 6)
    assert constraint.threads == ["MainThread"] + ["genai-beside"] * 5


def test_a_mask_that_cannot_be_made_ends_its_text_when_it_is_needed(stage: Stage) -> None:
    config = GenerationConfig(max_new_tokens=6, ignore_eos=True)
    sink = Told()
    job = stage.engine.submit(Request(prompt=[3], config=config, constraint=Noting(fails_at=3), sink=sink))
    stage.finish()
    assert "too complex here" in str(job.error)
    assert sink.delivered == [*((token, None) for token in greedy_continuation([3], 3)), (None, "error")]


def test_an_event_loop_is_woken_once_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        with engine_of(seconds=0.002, max_batch=8) as (streams, _):
            clock, woken = asyncio.get_running_loop(), list[object]()
            wake = clock.call_soon_threadsafe
            monkeypatch.setattr(clock, "call_soon_threadsafe", lambda *given: (woken.append(given), wake(*given))[1])
            texts = await asyncio.gather(*(tokens_of(streams.submit(request([n]), Reader())) for n in range(8)))
            assert texts == [greedy_continuation([n], 20) for n in range(8)]
            assert len(woken) <= 2 * streams.loop.engine.num_steps + 8  # type: ignore[attr-defined]
            assert len(woken) < 8 * 20 / 2, "far fewer than tokens"

    run(main())


def test_a_sink_that_closes_the_model_waits_for_nothing() -> None:
    """It is called on a thread that the engine's own waits for."""
    stage = Stage()
    loop = EngineLoop(stage.engine, stage.runner)  # type: ignore[arg-type]
    names, errors, end = list[str](), list[Exception](), threading.Event()

    def close(event: TokenEvent) -> None:
        names.append(threading.current_thread().name)
        if len(names) == 3:
            try:
                loop.call(lambda engine: None)
            except GenAIError as error:
                errors.append(error)
            loop.close()

    sink = Told(hook=close)
    job = loop.submit(Request(prompt=[3], config=GenerationConfig(max_new_tokens=400)), Follower(sink, end.set))
    assert end.wait(20)
    assert names[:3] == ["genai-beside"] * 3
    assert "own thread cannot wait" in str(errors[0])
    assert "this model was closed" in str(job.error)


def test_what_work_raises_is_raised_where_it_is_waited_for() -> None:
    beside, done = Beside(), list[int]()
    beside.wait()
    beside.begin(lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    with pytest.raises(ZeroDivisionError):
        beside.wait()
    beside.begin(lambda: done.append(1))
    beside.wait()
    assert done == [1]
    assert not beside.is_here
    beside.close()


def test_without_a_thread_the_work_is_done_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    beside, done = Beside(), list[int]()
    beside.begin(lambda: done.append(1))
    assert done == [1]
    beside.wait()
    beside.close()
