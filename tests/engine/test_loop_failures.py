"""What goes wrong around a loop: calls from its own thread, signals, shared errors, threads and devices that fail."""

from __future__ import annotations

import asyncio
import gc
import logging
import threading
import time
import weakref
from dataclasses import replace

import pytest

from genai.engine.streams import Follower, Streams
from genai.errors import GenAIError, GraphRunError
from genai.options.generation_config import GenerationConfig
from tests.engine.test_loop import Waiter, loop_of, together
from tests.engine.test_streams import Reader, request, tokens_of
from tests.fakes import greedy_continuation


def test_who_is_called_on_the_thread_of_the_loop_and_waits_for_it_gets_an_error() -> None:
    """A sink, a handler of logs, a destructor: they would wait for themselves."""
    with loop_of() as (loop, runner):
        outcomes: list[object] = []

        def before() -> None:
            runner.before = lambda: None
            uses = [lambda: Waiter.of(loop, request([2], 5)).text(), lambda: loop.call(lambda engine: 1), loop.settle]
            for use in uses:
                try:
                    outcomes.append(use())
                except GenAIError as error:
                    outcomes.append(str(error))

        runner.before = before
        (text,) = together([Waiter.of(loop, request([1], 5)).text])
        assert text == greedy_continuation([1], 5)
        told = "the engine's own thread cannot wait for it; ask from another one"
        assert outcomes == [told, told, None]


@pytest.mark.parametrize("error", [GraphRunError("the device"), MemoryError()])
@pytest.mark.parametrize("name", ["remember", "release"])
@pytest.mark.parametrize("num_beams", [1, 2])
def test_a_text_is_ended_though_what_it_holds_cannot_be_let_go(
    error: Exception, name: str, num_beams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loop_of(seconds=0.001) as (loop, runner):
        asked = replace(request([1]), config=GenerationConfig(max_new_tokens=60).updated(num_beams=num_beams))
        expected = Waiter.of(loop, asked).text()
        waiter = Waiter.of(loop, asked)
        while sum(bool(each.generated) for each in loop.engine.running) < num_beams:
            time.sleep(0.001)

        def fail(*_: object) -> None:
            raise error

        monkeypatch.setattr(loop.engine._rows, name, fail)
        if name == "release":
            monkeypatch.setattr(loop.engine._rows, "retire", fail)
        (text,) = together([waiter.text])
        assert text == expected
        assert not loop.engine.jobs
        monkeypatch.undo()
        assert len(runner.cache.rows) == (num_beams if name == "release" else 0)
        for row in runner.cache.rows:
            runner.cache.free(row)


def test_texts_that_fail_in_one_run_each_have_an_error_of_their_own() -> None:
    """Their threads raise them at the same time, and each adds its own frames."""
    with loop_of(seconds=0.001) as (loop, runner):
        waiters = [Waiter.of(loop, request([n], 400)) for n in range(3)]
        while len(loop.engine.running) < 3 or any(not each.job.first.generated for each in waiters):
            time.sleep(0.001)
        cause = ZeroDivisionError("the reason")

        def fail() -> None:
            raise GraphRunError("it failed") from cause

        runner.before = fail
        errors = together([each.text for each in waiters])
        runner.before = lambda: None
        assert [str(error) for error in errors] == ["it failed"] * 3
        assert len(set(map(id, errors))) == 3
        assert [error.__cause__ for error in errors] == [cause] * 3  # type: ignore[attr-defined]


def test_a_reader_that_has_met_an_error_is_kept_by_nobody() -> None:
    """What cancels a dropped stream knows its job, whose error knew the frames that it was raised in."""
    with loop_of() as (loop, runner):
        refs: list[weakref.ref[object]] = []

        async def main() -> None:
            stream = Streams(loop).submit(request([1], 400), Reader())
            refs.append(weakref.ref(stream))
            with pytest.raises(GraphRunError, match="it failed"):
                await tokens_of(stream)

        def fail() -> None:
            raise GraphRunError("it failed")

        runner.before = fail
        asyncio.run(main())
        runner.before = lambda: None
        gc.collect()
        assert refs[0]() is None


def test_a_signal_may_close_the_loop_in_the_middle_of_a_submission(monkeypatch: pytest.MonkeyPatch) -> None:
    with loop_of() as (loop, _):
        Waiter.of(loop, request([1], 5)).text()
        submit = loop.engine.submit
        monkeypatch.setattr(loop.engine, "submit", lambda asked: (loop.close(), submit(asked))[1])
        (error,) = together([lambda: Waiter.of(loop, request([2], 5)).text()])
        assert isinstance(error, GenAIError)


def test_a_call_that_is_interrupted_as_it_is_posted_is_not_made_later(monkeypatch: pytest.MonkeyPatch) -> None:
    with loop_of() as (loop, _):
        made: list[int] = []
        post = loop._mail.put

        class Mail:
            get, empty = loop._mail.get, loop._mail.empty

            @staticmethod
            def put(item: object) -> None:
                post(item)  # type: ignore[arg-type]
                raise KeyboardInterrupt

        waiter = Waiter.of(loop, request([1], 300))
        with monkeypatch.context() as patch:
            patch.setattr(loop, "_mail", Mail)
            with pytest.raises(KeyboardInterrupt):
                loop.call(lambda engine: made.append(1), lambda engine: waiter.job.is_over)
        waiter.text()
        loop.settle()
        assert made == []


def test_a_thread_that_cannot_be_started_now_may_be_later(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(thread: object) -> None:
        raise RuntimeError("can't start new thread")

    with loop_of() as (loop, _):
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            loop.settle()
            with pytest.raises(GenAIError, match="no thread for the engine: can't start new thread"):
                loop.submit(request([1]), Follower(Reader(), lambda: None))
        assert Waiter.of(loop, request([1], 5)).text() == greedy_continuation([1], 5)


def test_handlers_of_logs_that_fail_end_no_thread(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            raise RuntimeError("a handler's bug")

    def fail() -> None:
        raise ZeroDivisionError

    handler = Broken()
    logging.getLogger("genai.engine").addHandler(handler)
    try:
        with loop_of() as (loop, runner):
            runner.before = fail
            (error,) = together([lambda: Waiter.of(loop, request([1], 5)).text()])
            assert "a step was broken off: ZeroDivisionError" in str(error)
            runner.before = lambda: None
            assert Waiter.of(loop, request([1], 5)).text() == greedy_continuation([1], 5)
    finally:
        logging.getLogger("genai.engine").removeHandler(handler)
