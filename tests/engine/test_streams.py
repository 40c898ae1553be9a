"""Streams of coroutines: alone = many at once, slow and vanished readers, deadlines, draining, closing, a free loop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from genai.engine import loop as engine_loop
from genai.engine.engine import Engine
from genai.engine.loop import EngineLoop
from genai.engine.prefix_cache import PrefixCache
from genai.engine.request import Request
from genai.engine.scheduler import Limits
from genai.engine.sequence import FinishReason, TokenEvent
from genai.engine.streams import MAX_UNREAD, Stream, Streams
from genai.errors import ConfigError, GenAIError, GraphRunError, QueueFullError
from genai.options.generation_config import GenerationConfig
from tests.fakes import VOCAB_SIZE, FakeRunner, greedy_continuation, shape

Item = tuple[int | None, FinishReason | None]


class SlowRunner(FakeRunner):
    """Every run takes a while, in which other threads may run, as in ONNX Runtime. before: called ahead of each run."""

    def __init__(self, num_slots: int, seconds: float) -> None:
        super().__init__(num_slots)
        self.seconds = seconds
        self.before: Callable[[], object] = lambda: None

    def _count(self, num_tokens: int) -> None:
        self.before()
        time.sleep(self.seconds)
        super()._count(num_tokens)


class CountingEngine(Engine):
    """Counts its steps."""

    num_steps = 0

    def step(self) -> list[TokenEvent]:
        self.num_steps += 1
        return super().step()


class Reader:
    """Keeps events as they are; the most it has kept at a time is `most_unread`."""

    def __init__(self, *, fails_in: str = "", fails_at: int = 3) -> None:
        self.events: list[Item] = []
        self.most_unread = 0
        self.fails_in, self.fails_at, self.num_accepted = fails_in, fails_at, 0

    @property
    def num_unread(self) -> int:
        return len(self.events)

    def accept(self, event: TokenEvent) -> bool:
        self.num_accepted += 1
        self._fail("accept")
        return False

    def deliver(self, event: TokenEvent) -> None:
        self._fail("deliver")
        self.events.append((event.token, event.finish_reason))
        self.most_unread = max(self.most_unread, len(self.events))

    def take(self) -> list[Item]:
        self._fail("take")
        events = []
        while self.events:
            events.append(self.events.pop(0))
        return events

    def _fail(self, place: str) -> None:
        if self.fails_in == place and self.num_accepted >= self.fails_at:
            raise RuntimeError("a reader's bug")


@contextmanager
def engine_of(
    *, seconds: float = 0.0, num_slots: int = 4096, max_batch: int = 4, max_waiting: int | None = None
) -> Iterator[tuple[Streams, SlowRunner]]:
    runner = SlowRunner(num_slots, seconds)
    limits = Limits(max_batch=max_batch, max_seq_len=500, prefill_chunk=32, max_waiting=max_waiting)
    prefixes = PrefixCache(b"fake", shape().slot_bytes, 10**5, shape().state_bytes)
    counting = CountingEngine(runner, limits, (), prefixes)  # type: ignore[arg-type]
    loop = EngineLoop(counting, runner)  # type: ignore[arg-type]
    streams = Streams(loop)
    try:
        yield streams, runner
    finally:
        streams.close()
        assert not counting.has_work
        assert runner.cache.rows == (), "every row is freed"
        loop.close()


def request(prompt: list[int], num_tokens: int = 20, *, timeout: float | None = None, priority: int = 0) -> Request:
    config = GenerationConfig(max_new_tokens=num_tokens, ignore_eos=True)
    return Request(prompt=prompt, config=config, timeout=timeout, priority=priority)


async def tokens_of(stream: Stream[Item]) -> list[int]:
    """All tokens; checks that the end comes once, and last."""
    items = [item async for item in stream]
    assert [reason is not None for _, reason in items] == [False] * (len(items) - 1) + [True]
    return [token for token, _ in items if token is not None]


def last_reason(items: list[Item]) -> FinishReason | None:
    assert [reason for _, reason in items[:-1] if reason] == [], "one end, and nothing after it"
    return items[-1][1]


async def until(condition: Callable[[], object], seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        await asyncio.sleep(0.002)


def run(main: Coroutine[object, object, None]) -> None:
    """Run a coroutine; nothing may hang."""
    asyncio.run(asyncio.wait_for(main, 60))


def test_many_streams_at_once_say_what_each_says_alone() -> None:
    async def main() -> None:
        rng = random.Random(0)
        with engine_of(num_slots=600, max_batch=5) as (engine, _):
            prompts = [[rng.randrange(VOCAB_SIZE) for _ in range(rng.randint(1, 70))] for _ in range(40)]
            streams = [engine.submit(request(prompt, 5 + n), Reader()) for n, prompt in enumerate(prompts)]
            texts = await asyncio.gather(*map(tokens_of, streams))
            assert texts == [greedy_continuation(prompt, 5 + n) for n, prompt in enumerate(prompts)]

    run(main())


def test_a_slow_reader_pauses_itself_only_and_goes_on_where_it_was() -> None:
    async def main() -> None:
        with engine_of() as (engine, _):
            reader = Reader()
            slow = engine.submit(request([1], 300), reader)
            await until(lambda: reader.num_unread >= MAX_UNREAD)
            others = [engine.submit(request([n], 200), Reader()) for n in range(2, 5)]
            texts = await asyncio.gather(*map(tokens_of, others))
            assert texts == [greedy_continuation([n], 200) for n in range(2, 5)]
            assert reader.num_unread == MAX_UNREAD
            assert await tokens_of(slow) == greedy_continuation([1], 300)
            assert reader.most_unread <= MAX_UNREAD

    run(main())


def test_readers_at_any_pace_lose_nothing() -> None:
    async def read(stream: Stream[Item], rng: random.Random) -> list[int]:
        tokens = []
        async for token, _ in stream:
            tokens += [] if token is None else [token]
            if rng.random() < 0.05:
                await asyncio.sleep(rng.choice([0, 0.001, 0.02]))
        return tokens

    async def main() -> None:
        rng = random.Random(1)
        with engine_of(num_slots=700, max_batch=3) as (engine, _):
            streams = [engine.submit(request([n], 150), Reader()) for n in range(12)]
            texts = await asyncio.gather(*(read(stream, rng) for stream in streams))
            assert texts == [greedy_continuation([n], 150) for n in range(12)]

    run(main())


def test_a_reader_that_has_caught_up_is_served_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_loop, "_LOOK_SECONDS", 100.0)

    async def main() -> None:
        with engine_of() as (engine, _):
            reader = Reader()
            stream = engine.submit(request([1], 300), reader)
            await until(lambda: reader.num_unread >= MAX_UNREAD)
            await asyncio.sleep(0.02)
            assert await tokens_of(stream) == greedy_continuation([1], 300)

    run(main())


def test_as_many_slow_readers_as_rows_stall_nobody() -> None:
    async def main() -> None:
        with engine_of(max_batch=2) as (engine, _):
            readers = [Reader() for _ in range(2)]
            slow = [engine.submit(request([n], 300), reader) for n, reader in enumerate(readers)]
            await until(lambda: all(reader.num_unread >= MAX_UNREAD for reader in readers))
            assert await tokens_of(engine.submit(request([7], 50), Reader())) == greedy_continuation([7], 50)
            assert [await tokens_of(stream) for stream in slow] == [greedy_continuation([n], 300) for n in range(2)]

    run(main())


async def leave_by_aclose(stream: Stream[Item]) -> None:
    items = aiter(stream)
    for _ in range(3):
        await anext(items)
    assert isinstance(items, AsyncGenerator)
    await items.aclose()


async def leave_by_break(stream: Stream[Item]) -> None:
    async for _ in stream:
        break
    await asyncio.sleep(0)  # the loop closes the iterator


async def leave_by_an_error(stream: Stream[Item]) -> None:
    with contextlib.suppress(ZeroDivisionError):
        async for _ in stream:
            1 / 0  # noqa: B018


async def leave_by_task_cancel(stream: Stream[Item]) -> None:
    task = asyncio.create_task(tokens_of(stream))
    await asyncio.sleep(0.02)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


async def leave_by_cancel(stream: Stream[Item]) -> None:
    stream.cancel()


@pytest.mark.parametrize(
    "leave", [leave_by_aclose, leave_by_break, leave_by_an_error, leave_by_task_cancel, leave_by_cancel]
)
def test_a_reader_that_leaves_frees_its_row_within_a_step(
    leave: Callable[[Stream[Item]], Coroutine[object, object, None]],
) -> None:
    async def main() -> None:
        with engine_of(seconds=0.005) as (engine, runner):
            other = asyncio.create_task(tokens_of(engine.submit(request([9], 60), Reader())))
            stream = engine.submit(request([1], 400), Reader())
            await until(lambda: len(runner.cache.rows) == 2)
            await leave(stream)
            runs = runner.num_runs
            await until(lambda: len(runner.cache.rows) == 1)
            assert runner.num_runs <= runs + 2, "the run that was under way, and at most one that began meanwhile"
            assert stream.job.first.finish_reason == "cancelled"
            assert await other == greedy_continuation([9], 60)

    run(main())


def test_a_stream_that_nobody_reads_or_holds_any_more_is_cancelled() -> None:
    """As when a client goes before the response has begun: nothing is left that could call `cancel`."""

    async def main() -> None:
        with engine_of(seconds=0.002) as (engine, runner):
            engine.submit(request([1], 400), Reader())
            begun = aiter(engine.submit(request([2], 400), Reader()))
            await until(lambda: len(runner.cache.rows) == 1)
            del begun
            gc.collect()
            await until(lambda: not runner.cache.rows)

    run(main())


@pytest.mark.parametrize("is_paused", [False, True])
def test_a_closed_event_loop_is_a_vanished_reader(is_paused: bool) -> None:
    with engine_of(seconds=0.0 if is_paused else 0.002) as (engine, runner):
        loop = asyncio.new_event_loop()
        reader = Reader()

        async def start() -> Stream[Item]:
            return engine.submit(request([1], 450), reader)

        stream = loop.run_until_complete(start())
        deadline = time.monotonic() + 10
        while not (stream.job.first.is_paused if is_paused else reader.num_unread):
            assert time.monotonic() < deadline
            time.sleep(0.001)
        loop.close()
        while runner.cache.rows:
            assert time.monotonic() < deadline, "the row is never freed"
            time.sleep(0.001)
        assert stream.job.first.finish_reason == "cancelled"


def test_deadlines_hold_while_paused_and_while_waiting() -> None:
    async def main() -> None:
        with engine_of(max_batch=1) as (engine, _):
            reader = Reader()
            paused = engine.submit(request([1], 400, timeout=1.5), reader)
            await until(lambda: reader.num_unread >= MAX_UNREAD)
            await until(lambda: paused.job.first.finish_reason)
            items = [item async for item in paused]
            assert last_reason(items) == "timeout"
            assert len(items) == MAX_UNREAD + 1
            busy = asyncio.create_task(tokens_of(engine.submit(request([2], 400), Reader())))
            late = engine.submit(request([3], 400, timeout=0.0), Reader())
            assert [item async for item in late] == [(None, "timeout")]
            assert len(await busy) == 400

    run(main())


def test_draining_ends_what_was_accepted_and_refuses_the_rest() -> None:
    async def main() -> None:
        with engine_of(seconds=0.001, max_batch=2) as (engine, _):
            tasks = [asyncio.create_task(tokens_of(engine.submit(request([n], 30), Reader()))) for n in range(6)]
            draining = asyncio.create_task(engine.drain(30.0))
            await asyncio.sleep(0)
            with pytest.raises(QueueFullError, match="shutting down"):
                engine.submit(request([1]), Reader())
            assert await draining
            assert await asyncio.gather(*tasks) == [greedy_continuation([n], 30) for n in range(6)]
            assert await engine.drain(0.0), "nothing is left"

    run(main())


def test_draining_gives_up_after_its_time() -> None:
    async def main() -> None:
        with engine_of(seconds=0.01) as (engine, _):
            task = asyncio.create_task(tokens_of(engine.submit(request([1], 400), Reader())))
            begun = time.monotonic()
            assert not await engine.drain(0.1)
            assert time.monotonic() - begun >= 0.1
            assert not task.done(), "it goes on: nobody waited for its end"
            engine.close()
            assert len(await task) < 400

    run(main())


def test_draining_waits_for_the_last_end_to_be_delivered() -> None:
    """Between leaving the queue and its last item a request is nowhere but in the engine's hands."""

    async def main() -> None:
        for _ in range(30):
            with engine_of() as (engine, _):
                streams = [engine.submit(request([n], 3), Reader()) for n in range(8)]
                assert await engine.drain(30.0)
                assert {stream.job.first.finish_reason for stream in streams} == {"length"}
                assert [len(await tokens_of(stream)) for stream in streams] == [3] * 8

    run(main())


def test_closing_ends_every_stream_once_and_nobody_hangs() -> None:
    async def read(stream: Stream[Item]) -> list[Item]:
        return [item async for item in stream]

    async def main() -> None:
        with engine_of(seconds=0.002, max_batch=2) as (engine, _):
            streams = [engine.submit(request([n], 400), Reader()) for n in range(6)]
            tasks = [asyncio.create_task(read(stream)) for stream in streams]
            await asyncio.sleep(0.05)
            engine.close()
            results = await asyncio.gather(*tasks)
            assert {last_reason(items) for items in results} == {"cancelled"}
            assert last_reason([item async for item in streams[0]] or [(None, "cancelled")]) == "cancelled"
            with pytest.raises(QueueFullError, match="shutting down"):
                engine.submit(request([1]), Reader())
            engine.close()

    run(main())


def test_what_is_submitted_while_closing_is_refused_or_ended() -> None:
    """The narrow gap between the last look at the inbox and the end of the engine's thread."""

    async def main() -> None:
        for n in range(40):
            with engine_of() as (engine, _):
                ended: list[Item] = []
                closing = threading.Thread(target=lambda engine=engine: (time.sleep(0.0005), engine.close()))
                closing.start()
                streams = []
                with contextlib.suppress(QueueFullError):
                    for _ in range(1000):
                        streams.append(engine.submit(request([n], 400), Reader()))
                        await asyncio.sleep(0)
                for stream in streams:
                    ended += [item async for item in stream if item[1]]
                assert len(ended) == len(streams)
                closing.join()

    run(main())


def test_an_engine_that_nobody_closed_is_closed_when_the_interpreter_ends() -> None:
    code = """if True:
        import asyncio, atexit
        from tests.engine.test_streams import *
        atexit.register(lambda: print("running" if engine.loop._is_alive else "closed"))
        limits = Limits(max_batch=4, max_seq_len=500, prefill_chunk=32)
        prefixes = PrefixCache(b"fake", shape().slot_bytes, 0, shape().state_bytes)
        runner = SlowRunner(4096, 0.01)
        engine = Streams(EngineLoop(Engine(runner, limits, (), prefixes), runner))

        async def main():
            async for _ in engine.submit(request([1], 400), Reader()):
                return

        asyncio.run(main())
    """
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "closed\n", "")


def test_requests_come_from_several_loops_and_threads() -> None:
    with engine_of(num_slots=700) as (engine, _):
        results: dict[int, list[int]] = {}

        def work(n: int) -> None:
            async def main() -> None:
                streams = [engine.submit(request([n, m], 20), Reader()) for m in range(5)]
                for m, tokens in enumerate(await asyncio.gather(*map(tokens_of, streams))):
                    results[10 * n + m] = tokens

            run(main())

        threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert results == {10 * n + m: greedy_continuation([n, m], 20) for n in range(4) for m in range(5)}


def test_the_event_loop_stays_free_while_the_graph_runs() -> None:
    """Each run lasts until the loop has gone round three times more: one that waited for a run anywhere never would."""
    rounds, stuck = 0, list[int]()

    def until_it_has_gone_round() -> None:
        wanted, deadline = rounds + 3, time.monotonic() + 20
        while rounds < wanted and not stuck:
            time.sleep(0.001)
            if time.monotonic() > deadline:
                stuck.append(rounds)

    async def go_round() -> None:
        nonlocal rounds
        while True:
            await asyncio.sleep(0.002)
            rounds += 1

    async def main() -> None:
        with engine_of(max_batch=8) as (engine, runner):
            going = asyncio.create_task(go_round())
            runner.before = until_it_has_gone_round
            streams = []
            for n in range(12):
                streams.append(engine.submit(request([n] * 40, 5), Reader()))
                await until(lambda seen=runner.num_runs: runner.num_runs > seen)  # type: ignore[misc]
            streams.pop().cancel()
            await asyncio.gather(*map(tokens_of, streams))
            runner.before = lambda: None
            going.cancel()

    run(main())
    assert not stuck


def test_nothing_spins_when_there_is_nothing_to_run() -> None:
    async def main() -> None:
        with engine_of() as (engine, _):
            counting = engine.loop.engine
            assert isinstance(counting, CountingEngine)
            await asyncio.sleep(0.2)
            assert counting.num_steps == 0, "idle"
            readers = [Reader() for _ in range(6)]
            streams = [engine.submit(request([n], 200), reader) for n, reader in enumerate(readers)]
            await until(lambda: all(reader.num_unread >= MAX_UNREAD for reader in readers))
            await asyncio.sleep(0.1)
            steps, begun = counting.num_steps, time.monotonic()
            await asyncio.sleep(0.5)
            looks = counting.num_steps - steps
            assert looks <= (time.monotonic() - begun) / 0.05 + 2, "a look every 50 ms, for deadlines"
            await asyncio.gather(*map(tokens_of, streams))
            await asyncio.sleep(0.1)
            steps = counting.num_steps
            await asyncio.sleep(0.2)
            assert counting.num_steps == steps, "idle again"

    run(main())


@pytest.mark.parametrize("place", ["accept", "deliver", "take"])
def test_a_reader_with_a_bug_ends_itself_only(place: str) -> None:
    async def main() -> None:
        with engine_of(seconds=0.001) as (engine, _):
            stream = engine.submit(request([1], 100), Reader(fails_in=place))
            other = engine.submit(request([2], 30), Reader())
            with contextlib.suppress(RuntimeError, GenAIError):
                async with asyncio.timeout(5):
                    assert len([item async for item in stream]) <= 3
            assert await tokens_of(other) == greedy_continuation([2], 30)
            await until(lambda: stream.job.first.finish_reason)
            assert stream.job.first.finish_reason == ("cancelled" if place == "take" else "error")

    run(main())


def test_an_unforeseen_error_in_a_step_ends_what_is_there_and_the_engine_goes_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def main() -> None:
        with engine_of(max_batch=2) as (engine, runner):
            streams = [engine.submit(request([n], 100), Reader()) for n in range(4)]
            await until(lambda: runner.num_runs > 5)
            runner.before = lambda: 1 / 0
            for stream in streams:
                with pytest.raises(GenAIError, match="ZeroDivisionError"):
                    await tokens_of(stream)
                assert stream.job.first.finish_reason == "error"
            runner.before = lambda: None
            assert await tokens_of(engine.submit(request([7], 30), Reader())) == greedy_continuation([7], 30)

    run(main())
    assert "ZeroDivisionError" in caplog.text


def test_bad_requests_are_refused_when_submitted() -> None:
    async def main() -> None:
        with engine_of(max_batch=1, max_waiting=2) as (engine, _):
            with pytest.raises(ConfigError, match="no tokens"):
                engine.submit(request([]), Reader())
            streams = []

            def submit_many() -> None:
                for n in range(10):
                    streams.append(engine.submit(request([n], 100), Reader()))

            with pytest.raises(QueueFullError, match="the most allowed"):
                submit_many()
            assert all([len(await tokens_of(stream)) == 100 for stream in streams])
            assert await engine.drain(0.0), "what was refused is not waited for"

    run(main())


def test_priorities_are_handed_on() -> None:
    async def main() -> None:
        with engine_of(max_batch=1, seconds=0.001) as (engine, runner):
            order: list[int] = []

            async def read(number: int, priority: int) -> None:
                await tokens_of(engine.submit(request([number], 5, priority=priority), Reader()))
                order.append(number)

            first = engine.submit(request([9], 60), Reader())
            await until(lambda: runner.cache.rows)
            await asyncio.gather(*(read(n, -n) for n in range(5)), tokens_of(first))
            assert order == [4, 3, 2, 1, 0]

    run(main())


def test_random_cancels_and_failures_leak_nothing() -> None:
    async def read(stream: Stream[Item], rng: random.Random) -> FinishReason | None:
        items: list[Item] = []
        leaves_after = rng.choice([None, None, 1, 5, 20])
        with contextlib.suppress(asyncio.TimeoutError, GraphRunError):
            async with asyncio.timeout(rng.choice([None, None, None, 0.05])):
                async for item in stream:
                    items.append(item)
                    if len(items) == leaves_after:
                        break
        return items[-1][1] if items else None

    async def main() -> None:
        rng = random.Random(3)
        with engine_of(num_slots=500, max_batch=4) as (engine, runner):
            runner.fails = lambda run: run % 41 == 40
            tasks = []
            for _ in range(150):
                length, num_tokens = rng.randint(1, 60), rng.randint(1, 120)
                made = request([rng.randrange(VOCAB_SIZE)] * length, num_tokens, timeout=rng.choice([None, 1.0]))
                tasks.append(asyncio.create_task(read(engine.submit(made, Reader()), rng)))
                if rng.random() < 0.3:
                    await asyncio.sleep(0.01)
            reasons = Counter(await asyncio.gather(*tasks))
            assert {None, "length", "error"} <= reasons.keys()
            await until(lambda: not engine.loop.engine.has_work)
            assert runner.cache.rows == ()

    run(main())
