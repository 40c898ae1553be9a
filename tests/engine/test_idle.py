"""Rows of ended texts: taken up again where they lie, in nobody's way, and never those of what ended badly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from genai.engine.engine import Engine
from genai.engine.prefix_cache import BlockKeys
from genai.engine.rows import IdleText
from genai.engine.sequence import Sequence as Text
from tests.engine.conftest import WITHOUT_STATES
from tests.engine.test_engine import config, engine_with, run, submit
from tests.fakes import POISON, FakeRunner, greedy_continuation, read_tokens, shape

pytestmark = pytest.mark.usefixtures("each_memory")


def copies(runner: FakeRunner) -> list[str]:
    """Every copy of keys and values that is made from now on, by what makes it."""
    made: list[str] = []

    def note(owner: object, name: str) -> None:
        original = getattr(owner, name)

        def noted(*arguments: object, **named: object) -> object:
            if name != "arrange" or arguments[0]:
                made.append(name)
            return original(*arguments, **named)

        setattr(owner, name, noted)

    for buffer in runner.cache._buffers:
        note(buffer, "copy")
        note(buffer, "arrange")
    note(runner.cache, "import_row")
    return made


def idle_tokens(engine: Engine, runner: FakeRunner) -> list[list[int]]:
    return [read_tokens(runner.cache, row) for row in runner.cache.idle]


def finish(engine: Engine, prompt: Sequence[int], num_tokens: int = 20, **options: object) -> Text:
    text = submit(engine, list(prompt), config(num_tokens), **options)
    run(engine)
    return text


def test_a_chat_goes_on_without_a_copy_and_runs_only_what_is_new() -> None:
    engine, runner = engine_with(prefix_bytes=10**6, chunk=512)
    made = copies(runner)
    history = list(range(50))
    for turn in range(6):
        runner.longest_run = 0
        text = finish(engine, history)
        assert text.generated == greedy_continuation(history, 20)
        assert text.num_cached == (len(history) - 8 if turn else 0), (
            "all but the last answer's last token, and what is new"
        )
        assert runner.longest_run == (8 if turn else min(50, runner.cache.longest_run))
        assert idle_tokens(engine, runner) == [text.tokens[:-1]]
        history = [*text.tokens, *range(80, 87)]
    within_rows = {"arrange", "copy"} if runner.cache.window is not None else set()  # what windows see moves down
    assert {*made} <= within_rows


def test_status_and_metrics_say_what_is_idle() -> None:
    engine, runner = engine_with(prefix_bytes=10**6, num_slots=512)
    text = finish(engine, range(50))
    status = engine.cache_status
    assert (status.rows, status.used_bytes, status.num_idle) == ((), 0, 1)
    held = len(text.tokens) - 1
    assert status.idle_bytes == shape().num_bytes(held, held - runner.cache.base(runner.cache.idle[0]))
    assert engine._metrics is not None
    value = engine._metrics.registry.get_sample_value
    assert value("genai_kv_cache_idle_ratio", {"model": "fake"}) == (len(text.tokens) - 1) / 512
    assert value("genai_kv_cache_usage_ratio", {"model": "fake"}) == 0


@pytest.mark.parametrize("each_memory", WITHOUT_STATES, indirect=True)
def test_idle_rows_give_way_to_whoever_needs_the_room() -> None:
    engine, runner = engine_with(prefix_bytes=10**6, num_slots=256, max_seq_len=250)
    for number in range(4):
        finish(engine, [number] * 50)
    assert len(runner.cache.idle) > 1
    long = finish(engine, [90] * 200)
    assert long.generated == greedy_continuation([90] * 200, 20)
    assert long.timeline.num_preemptions == 0
    again = finish(engine, [0] * 50)
    assert again.num_cached >= 48, "what the arena has lost comes from the prefix cache"
    assert again.generated == greedy_continuation([0] * 50, 20)


@pytest.mark.parametrize("each_memory", WITHOUT_STATES, indirect=True)
def test_what_others_begin_with_too_is_copied_and_the_chat_stays() -> None:
    engine, runner = engine_with(prefix_bytes=10**6)
    system = list(range(32))
    chat = finish(engine, [*system, *[60] * 100])
    other = finish(engine, [*system, 70, 71])
    assert other.num_cached == 32
    assert chat.tokens[:-1] in idle_tokens(engine, runner)
    more = finish(engine, [*chat.tokens, 5])
    assert more.num_cached == len(chat.tokens) - 1


@pytest.mark.parametrize("each_memory", WITHOUT_STATES, indirect=True)
def test_a_chat_longer_than_the_prefix_cache_goes_on_in_its_row() -> None:
    engine, _ = engine_with(prefix_bytes=64 * shape().bytes_per_token)
    chat = finish(engine, range(90))
    more = finish(engine, [*chat.tokens, 5])
    assert more.num_cached == len(chat.tokens) - 1
    assert more.generated == greedy_continuation([*chat.tokens, 5], 20)


@pytest.mark.parametrize("each_memory", WITHOUT_STATES, indirect=True)
def test_what_can_be_copied_is_not_given_up_for_less_that_need_not_be() -> None:
    engine, _ = engine_with(prefix_bytes=10**6)
    long = finish(engine, range(80), 1)
    finish(engine, [*range(16), 90, 91], 2)  # and the long one has no row any more
    for row in engine._rows._cache.idle:
        if engine._rows._idle[row].tokens[:80] == long.tokens[:80]:
            engine._rows._cache.forget(row)
    assert finish(engine, [*range(80), 95, 96]).num_cached == 80


def test_without_a_prefix_cache_nothing_is_idle() -> None:
    engine, runner = engine_with(prefix_bytes=0)
    finish(engine, range(50))
    assert runner.cache.idle == ()
    assert finish(engine, range(50)).num_cached == 0


def test_a_prompt_whose_log_probabilities_are_asked_for_is_run() -> None:
    engine, _ = engine_with(prefix_bytes=10**6)
    finish(engine, range(50))
    again = submit(engine, list(range(50)), config(5, prompt_logprobs=1))
    run(engine)
    assert again.num_cached == 0
    assert len(again.prompt_logprobs) == 50


@pytest.mark.parametrize("how", ["cancelled", "timeout", "failed run", "overflow"])
def test_what_ends_badly_is_never_idle(how: str) -> None:
    broken: set[int] = set()
    engine, runner = engine_with(prefix_bytes=10**6, poison=(POISON,), fails=lambda run: run in broken)
    options = {"timeout": 1e9} if how == "timeout" else {}
    text = submit(engine, list(range(40)), config(30), **options)
    while len(text.generated) < 3:
        engine.step()
    if how == "cancelled":
        assert text.job is not None
        engine.cancel(text.job)
    elif how == "timeout":
        text.deadline = 0.0
    elif how == "overflow":
        text.tokens[-1] = POISON
    else:
        broken.add(runner.num_runs)
    run(engine)
    assert text.finish_reason == {"failed run": "error", "overflow": "error"}.get(how, how)
    assert runner.cache.idle == ()


@pytest.mark.parametrize("seed", range(20))
def test_what_is_shared_is_found_by_keys(seed: int) -> None:
    rng = np.random.default_rng(seed)
    engine, _ = engine_with(prefix_bytes=10**6)
    keys = engine._rows._prefixes.keys
    one = rng.integers(0, 3, rng.integers(1, 100)).tolist()
    cut = int(rng.integers(0, len(one) + 1))
    other = [*one[:cut], *rng.integers(0, 3, rng.integers(0, 50)).tolist()]
    expected = next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    idle = IdleText(tokens=one, keys=keys(one, BlockKeys()))
    assert idle.shared(other, keys(other, BlockKeys())) == (min(len(one), len(other)) if expected is None else expected)
