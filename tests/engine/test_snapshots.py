"""Texts of a model with states: what is run again, and what is not, in chats, drafts, rewinds and shared beginnings."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from genai.engine.drafting.drafts import Drafter
from genai.engine.engine import Engine
from genai.engine.request import Request
from genai.engine.sequence import Sequence as Text
from genai.options.generation_config import GenerationConfig
from genai.runtime.capacity import CapacityPolicy
from genai.runtime.states import sizes_of
from tests import fakes
from tests.engine.drafting.test_drafts import Oracle
from tests.engine.test_engine import config, engine_with, run, submit
from tests.fakes import greedy_continuation

SYSTEM = [*range(90), 1, 2]


@pytest.fixture(autouse=True)
def states(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakes, "has_states", True)


def finish(engine: Engine, prompt: Sequence[int], num_tokens: int = 20) -> Text:
    text = submit(engine, list(prompt), config(num_tokens))
    run(engine)
    assert text.generated == greedy_continuation(prompt, num_tokens)
    return text


def forget_idle(engine: Engine) -> None:
    """From now on only the prefix cache knows."""
    for row in engine._rows._cache.idle:
        engine._rows._cache.forget(row)


@pytest.mark.parametrize("is_idle", [True, False])
def test_a_chat_pays_for_its_newest_turn_only(is_idle: bool) -> None:
    engine, _ = engine_with(prefix_bytes=10**6)
    history = [*SYSTEM, 70, 71]
    for turn in range(4):
        text = finish(engine, history)
        assert text.num_cached == (len(history) - 8 if turn else 0), "all but its last token, and what is new"
        history = [*text.tokens, *range(80, 87)]
        if not is_idle:
            forget_idle(engine)


def test_a_system_prompt_is_paid_twice_and_then_no_more() -> None:
    engine, _ = engine_with(prefix_bytes=10**6)
    chats = [finish(engine, [*SYSTEM, first, first + 1, first + 2]) for first in (60, 63, 66)]
    assert [chat.num_cached for chat in chats] == [0, 0, 80]
    again = [finish(engine, [*chat.tokens, 5, 6]) for chat in chats]
    assert [text.num_cached for text in again] == [len(chat.tokens) - 1 for chat in chats]


def test_prompts_that_arrive_together_share_what_they_begin_with() -> None:
    """The first one's states are put aside where the second one parts from it, and the second one waits for that."""
    engine, _ = engine_with(prefix_bytes=10**6, chunk=64)
    texts = [submit(engine, [*SYSTEM, first, first + 1], config(5)) for first in (60, 63, 66)]
    run(engine)
    assert [text.num_cached for text in texts] == [0, 80, 80]
    for text in texts:
        assert text.generated == greedy_continuation(text.tokens[: text.num_prompt], 5)


def test_another_end_of_the_prompt_costs_its_last_tokens() -> None:
    """A template that writes the answer's beginning otherwise in the next turn, or the same question again."""
    engine, _ = engine_with(prefix_bytes=10**6)
    prompt = [random.Random(3).randrange(90) for _ in range(300)]
    finish(engine, prompt)
    forget_idle(engine)
    assert finish(engine, prompt).num_cached == (300 - 8) // 16 * 16
    assert finish(engine, [*prompt[:-5], 91, 92, 93]).num_cached == (300 - 8) // 16 * 16


def test_what_gives_way_goes_on_where_it_was() -> None:
    engine, runner = engine_with(prefix_bytes=10**6, num_slots=256, max_seq_len=250)
    runner.cache.policy = CapacityPolicy(headroom=0)
    texts = [submit(engine, [n] * 30, config(90)) for n in range(3)]
    prefilled: list[int] = []
    original = runner.prefill_chunk
    runner.prefill_chunk = lambda row, tokens: (prefilled.append(len(tokens)), original(row, tokens))[1]  # type: ignore[method-assign]
    run(engine)
    assert sum(text.timeline.num_preemptions for text in texts) > 0
    assert sum(prefilled) <= 90 + 3 * sum(text.timeline.num_preemptions for text in texts)
    assert [text.generated for text in texts] == [greedy_continuation([n] * 30, 90) for n in range(3)]


def test_who_is_only_read_leaves_no_snapshot() -> None:
    engine, _ = engine_with(prefix_bytes=10**6)
    engine.submit(Request(prompt=list(range(60)), config=GenerationConfig(max_new_tokens=0)))
    run(engine)
    assert engine.cache_status.num_snapshots == 0
    finish(engine, range(60))
    assert engine.cache_status.num_snapshots == 1
    submit(engine, [1, 2, 3], config(2))
    engine.step()
    (row,) = engine.cache_status.rows
    assert row.state_bytes == sum(sizes_of(fakes.STATES))
    assert engine._metrics is not None
    value = engine._metrics.registry.get_sample_value
    assert value("genai_state_bytes", {"model": "fake"}) == row.state_bytes
    assert value("genai_prefix_cache_snapshots", {"model": "fake"}) == 1


def drafted(wrong: float, count: int = 60) -> Text:
    """A text with drafts whose tokens are wrong so often, run beside others."""
    engine, _ = engine_with(max_batch=3)
    others = [submit(engine, [n], config(count)) for n in range(2)]
    text = submit(engine, [5, 6, 7], config(count))
    same = [5, 6, 7, *greedy_continuation([5, 6, 7], count)]
    text.drafter = Drafter(Oracle(same, wrong, random.Random(1)), max_length=4)
    text.drafter.budget.length = lambda token_cost: 4  # type: ignore[method-assign]
    run(engine)
    assert text.tokens == same
    assert [other.generated for other in others] == [greedy_continuation([n], count) for n in range(2)]
    return text


@pytest.mark.parametrize("wrong", [0.0, 0.5, 1.0])
def test_drafts_change_no_text(wrong: float) -> None:
    text = drafted(wrong)
    assert text.drafter is not None
    budget = text.drafter.budget
    assert (budget.num_accepted == 0) == (wrong == 1)
    assert (budget.num_accepted == budget.num_drafted) == (wrong == 0)


def test_drafts_wait_where_no_slot_is_left_for_what_they_would_go_back_to() -> None:
    """Three rows and two slots more, of which a row that runs alone needs one."""
    engine, runner = engine_with(max_batch=3)
    texts = [submit(engine, [n], config(30)) for n in range(3)]
    for text in texts:
        same = [*text.tokens, *greedy_continuation(text.tokens, 30)]
        text.drafter = Drafter(Oracle(same, 0.5, random.Random(1)), max_length=4)
        text.drafter.budget.length = lambda token_cost: 4  # type: ignore[method-assign]
    spare: list[int] = []
    original = runner.cache.keep
    runner.cache.keep = lambda row: (original(row), spare.append(runner.cache.num_spare))[0]  # type: ignore
    run(engine)
    assert [text.generated for text in texts] == [greedy_continuation([n], 30) for n in range(3)]
    assert min(spare) == 1


def test_a_wrong_drafts_rerun_is_counted() -> None:
    """Of a draft of four that is wrong at once, its run and one more token are paid for."""
    engine, _ = engine_with()
    text = submit(engine, [5, 6, 7], config(40))
    text.drafter = Drafter(Oracle([5, 6, 7, *[96] * 40], 0.0, random.Random(1)), max_length=4)
    text.drafter.budget.length = lambda token_cost: 4  # type: ignore[method-assign]
    seen: list[tuple[float, ...]] = []
    text.drafter.budget.saw = lambda *given: seen.append(given)  # type: ignore[method-assign]
    run(engine)
    assert text.generated == greedy_continuation([5, 6, 7], 40)
    assert {(drafted, accepted, again) for drafted, accepted, _, again in seen if drafted == 4} == {(4, 0, 1)}


def test_rewinding_goes_to_the_nearest_snapshot() -> None:
    engine, runner = engine_with(prefix_bytes=10**6)
    prompt = [random.Random(3).randrange(90) for _ in range(200)]
    job = engine.submit(Request(prompt=prompt, config=config(20), is_manual=True))
    text = job.first
    for _ in range(5):
        while not engine.demand(text):
            engine.step()
        engine.pick(text)
    expected = text.generated
    engine.rewind(text, 202)
    assert text.num_computed == 192 == runner.cache.valid(text.row or 0)
    for _ in range(3):
        while not engine.demand(text):
            engine.step()
        engine.pick(text)
    assert text.generated == expected


def test_a_cut_that_is_missed_is_an_error() -> None:
    _, runner = engine_with()
    row = runner.cache.allocate(20)
    runner.prefill(row, [1, 2, 3])
    for cut in (lambda: runner.cache.truncate(row, 2), lambda: runner.cache.fork(row, 2)):
        with pytest.raises(AssertionError, match="2 tokens of a row with states or windows, which holds 3"):
            cut()
    runner.cache.truncate(row, 3)
    runner.cache.truncate(row, 0)
    runner.prefill(row, [4, 5])
    assert fakes.read_tokens(runner.cache, row) == [4, 5]
