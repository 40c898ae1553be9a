"""Drafts never change a text, whoever drafts and whatever they say; and log probabilities of prompts."""

from __future__ import annotations

import contextlib
import math
import random
from collections import abc
from dataclasses import replace

import numpy as np
import pytest

from genai.decoding.logprobs import token_logprob
from genai.engine.decode_step import DecodeStep, Work
from genai.engine.drafting.draft_model import DraftModel, ModelProposer
from genai.engine.drafting.drafts import Allowance, Drafter
from genai.engine.request import Request
from genai.engine.sequence import Sequence
from genai.errors import GraphRunError
from genai.options.generation_config import GenerationConfig
from tests.engine.conftest import WITH_STATES, WITH_WINDOWS
from tests.engine.test_engine import config, engine_with, prompts, run, submit
from tests.fakes import POISON, VOCAB_SIZE, FakeRunner, greedy_continuation, next_logits, num_reserved, read_tokens

pytestmark = pytest.mark.usefixtures("each_memory")


class Constant:
    """Proposes always the same."""

    def __init__(self, draft: list[int]) -> None:
        self.draft = draft

    def catch_up(self, tokens: abc.Sequence[int], allowance: object) -> bool:
        return True

    def propose(self, tokens: abc.Sequence[int], max_tokens: int) -> list[int]:
        return self.draft[:max_tokens]

    def close(self) -> None:
        pass


class Oracle:
    """Proposes the text as it will be, wrong at random places."""

    def __init__(self, text: list[int], wrong: float, rng: random.Random) -> None:
        self.text, self.wrong, self.rng, self.is_closed = text, wrong, rng, False

    def catch_up(self, tokens: abc.Sequence[int], allowance: object) -> bool:
        return True

    def propose(self, tokens: abc.Sequence[int], max_tokens: int) -> list[int]:
        ahead = self.text[len(tokens) : len(tokens) + max_tokens]
        return [token if self.rng.random() >= self.wrong else self.rng.randrange(VOCAB_SIZE) for token in ahead]

    def close(self) -> None:
        self.is_closed = True


def with_oracle(sequence: Sequence, text: list[int], wrong: float, seed: int = 0) -> Oracle:
    oracle = Oracle(text, wrong, random.Random(seed))
    sequence.drafter = Drafter(oracle, max_length=6)
    sequence.drafter.budget.length = lambda token_cost: 6  # type: ignore[method-assign]
    return oracle


@pytest.mark.parametrize("wrong", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "rng_seed": 4}, {"repetition_penalty": 1.3}])
@pytest.mark.parametrize(("num_slots", "max_batch"), [(4096, 1), (4096, 4), (160, 4)])
def test_drafted_is_plain(wrong: float, options: dict[str, object], num_slots: int, max_batch: int) -> None:
    settings = config(25, **options)
    plain, _ = engine_with()
    expected = [submit(plain, prompt, settings) for prompt in prompts(6, 30)]
    run(plain)
    engine, runner = engine_with(num_slots=num_slots, max_batch=max_batch, max_seq_len=64)
    drafted = [submit(engine, prompt, settings) for prompt in prompts(6, 30)]
    oracles = [with_oracle(one, other.tokens, wrong) for one, other in zip(drafted[::2], expected[::2], strict=True)]
    run(engine)
    assert [one.generated for one in drafted] == [one.generated for one in expected]
    assert all(oracle.is_closed for oracle in oracles)
    assert runner.cache.rows == ()


def test_a_right_draft_saves_runs_and_is_counted() -> None:
    engine, runner = engine_with()
    text = [1, 2, *greedy_continuation([1, 2], 30)]
    sequence = submit(engine, [1, 2], config(29))
    with_oracle(sequence, text, 0.0)
    run(engine)
    assert sequence.tokens == text[:31]
    assert runner.num_runs <= 1 + 5
    assert sequence.drafter is not None
    assert sequence.drafter.budget.num_drafted == sequence.drafter.budget.num_accepted > 20


def test_a_draft_ends_where_the_text_ends() -> None:
    for end in range(3, 12):
        engine, _ = engine_with()
        text = [1, 2, *greedy_continuation([1, 2], 30)]
        stop_at = submit(engine, [1, 2], GenerationConfig(max_new_tokens=20, eos_token_ids=(text[end],)))
        with_oracle(stop_at, text, 0.0)
        limited = submit(engine, [1, 2], config(end))
        with_oracle(limited, text, 0.0)
        run(engine)
        assert stop_at.tokens == text[: text.index(text[end], 2) + 1]
        assert stop_at.finish_reason == "stop"
        assert limited.tokens == text[: 2 + end]
        assert limited.finish_reason == "length"


def test_prompt_lookup_finds_what_repeats() -> None:
    """A model that goes in circles: the fake one never does, so its logits are bent."""
    engine, runner = engine_with()
    cycle = [11, 12, 13, 14, 15, 16, 17]

    def bent(tokens: list[int]) -> np.ndarray:
        logits = np.zeros(VOCAB_SIZE, np.float32)
        logits[cycle[len(tokens) % 7]] = 9
        return logits

    import tests.fakes

    original = tests.fakes.next_logits
    tests.fakes.next_logits = bent  # type: ignore[assignment]
    try:
        plain = submit(engine, [1] * 7, config(60))
        run(engine)
        num_plain, runner.num_runs = runner.num_runs, 0
        drafted = submit(engine, [1] * 7, config(60, speculative="prompt_lookup"))
        run(engine)
    finally:
        tests.fakes.next_logits = original
    assert drafted.generated == plain.generated
    assert runner.num_runs < num_plain / 2


def draft_model(runner: FakeRunner | None, is_free: abc.Callable[[], bool] = lambda: True) -> DraftModel:
    """One that nobody else uses, or now and then."""
    return DraftModel(lambda: contextlib.nullcontext(runner if is_free() else None))  # type: ignore[arg-type]


@pytest.mark.parametrize("num_slots", [4096, 70])
def test_a_draft_model_gives_the_same_text(num_slots: int) -> None:
    engine, runner = engine_with()
    other = FakeRunner(num_slots)
    model = draft_model(other)
    texts = [submit(engine, prompt, config(30), draft_model=model) for prompt in prompts(5, 20)]
    run(engine)
    assert [text.generated for text in texts] == [greedy_continuation(prompt, 30) for prompt in prompts(5, 20)]
    assert other.cache.rows == (), "its rows are freed with the texts"
    if num_slots == 4096:
        assert runner.num_runs < 5 * 30 / 2
    assert all(text.drafter is not None for text in texts)


@pytest.mark.parametrize("each_memory", WITH_STATES, indirect=True)
def test_a_wrong_draft_costs_what_came_true_of_it() -> None:
    """Not the whole text: its states go back to those before the draft."""
    runner = FakeRunner(400)
    proposer = ModelProposer(draft_model(runner))
    text = [1] * 50
    right = proposer.propose(text, 5)
    wrong = [*text, *right[:3], 7]
    runner.num_runs = runner.longest_run = 0
    assert proposer.propose(wrong, 1) == greedy_continuation(wrong, 1)
    assert (runner.num_runs, runner.longest_run) == (1, 4)


@pytest.mark.parametrize("each_memory", WITH_STATES, indirect=True)
def test_who_finds_no_slot_for_states_drafts_nothing() -> None:
    runner = FakeRunner(400, max_batch=2)
    model = draft_model(runner)
    first, second = ModelProposer(model), ModelProposer(model)
    assert first.propose([1, 2, 3], 2) == greedy_continuation([1, 2, 3], 2)
    assert second.propose([4, 5], 2) == []
    first.close()
    assert second.propose([4, 5, 6], 2) == greedy_continuation([4, 5, 6], 2)


def test_a_draft_model_that_fails_costs_drafts_only() -> None:
    """Its values overflow, or a run of it; nobody's text is another, and it drafts as before afterwards."""
    engine, _ = engine_with(max_batch=1)
    other = FakeRunner(400, fails=lambda run: run == 10, poison=[5])
    model = draft_model(other)
    made = [[5, 1, 2], *prompts(4, 10), [1, 5]]
    texts = [submit(engine, prompt, config(30), draft_model=model) for prompt in made]
    run(engine)
    assert [text.generated for text in texts] == [greedy_continuation(prompt, 30) for prompt in made]
    assert other.cache.rows == ()
    assert ModelProposer(model).propose([1, 2, 3], 2) == greedy_continuation([1, 2, 3], 2)


def test_a_draft_that_overflows_is_not_the_texts_fault() -> None:
    engine, runner = engine_with(poison=(POISON,))
    made = [prompt for prompt in prompts(9, 10) if POISON not in [*prompt, *greedy_continuation(prompt, 20)]]
    texts = [submit(engine, prompt, config(20)) for prompt in made]
    for text in texts[1:]:  # one runs beside them without
        text.drafter = Drafter(Constant([POISON] * 4), max_length=4)
        text.drafter.budget.length = lambda token_cost: 4  # type: ignore[method-assign]
    run(engine)
    assert [text.generated for text in texts] == [greedy_continuation(prompt, 20) for prompt in made]
    assert runner.longest_run > 1


@pytest.mark.parametrize("each_memory", WITH_WINDOWS, indirect=True)
def test_a_long_draft_leaves_room_for_padding() -> None:
    """Where windows are kept, a row has room for so many positions of one run, those that padding adds included."""
    engine, runner = engine_with(chunk=8)
    runner.cache.policy = replace(runner.cache.policy, spare=1)
    (prompt,) = prompts(1, 20)
    text = submit(engine, prompt, config(60))
    text.drafter = Drafter(Constant([POISON] * 60), max_length=60)
    text.drafter.budget.length = lambda token_cost: 60  # type: ignore[method-assign]
    run(engine)
    assert text.generated == greedy_continuation(prompt, 60)
    assert runner.longest_run == runner.cache.longest_run - 1


def test_a_proposer_drops_what_did_not_come_true() -> None:
    runner = FakeRunner(400)
    proposer = ModelProposer(draft_model(runner))
    right = greedy_continuation([1, 2, 3], 4)
    assert proposer.propose([1, 2, 3], 4) == right
    for text in ([1, 2, 3, right[0], 51], [1, 2, 3, right[0], 51, 52], [1, 2, 3, 50, 51], [9]):
        assert proposer.propose(text, 3) == greedy_continuation(text, 3)
    proposer.close()
    assert runner.cache.rows == ()


def test_a_draft_model_that_is_busy_now_and_then_changes_nothing_and_leaks_no_row() -> None:
    engine, _ = engine_with()
    other, chance, asked = FakeRunner(4096), random.Random(0), list[bool]()

    def maybe() -> bool:
        asked.append(chance.random() < 0.5)
        return asked[-1]

    model = draft_model(other, maybe)
    texts = [submit(engine, prompt, config(30), draft_model=model) for prompt in prompts(5, 20)]
    while engine.has_work:
        engine.step()
        if chance.random() < 0.2:
            model.free_all(other)  # type: ignore[arg-type]  # its own texts come first
            assert other.cache.rows == ()
    assert [text.generated for text in texts] == [greedy_continuation(prompt, 30) for prompt in prompts(5, 20)]
    assert {True, False} == set(asked)
    model.free_ended(other)  # type: ignore[arg-type]
    assert other.cache.rows == (), "those that ended while it was busy are freed by who comes next"


@pytest.mark.parametrize("num_slots", [4096, 90])
def test_prompt_logprobs_are_the_models(num_slots: int) -> None:
    engine, _ = engine_with(num_slots=num_slots, max_seq_len=64, prefix_bytes=10**5)
    made = prompts(5, 40)
    sequences = [submit(engine, prompt, config(4, prompt_logprobs=2)) for prompt in [*made, *made]]
    run(engine)
    for sequence, prompt in zip(sequences, [*made, *made], strict=True):
        expected = [token_logprob(next_logits(prompt[:end]), prompt[end], 2) for end in range(1, len(prompt))]
        assert sequence.prompt_logprobs == [None, *expected]
        assert sequence.generated == greedy_continuation(prompt, 4)


def test_a_prompt_can_be_scored_without_a_text() -> None:
    engine, runner = engine_with()
    sequence = submit(engine, [1, 2, 3, 4], config(0, prompt_logprobs=0))
    run(engine)
    assert (sequence.generated, sequence.finish_reason) == ([], "length")
    assert len(sequence.prompt_logprobs) == 4
    assert runner.cache.rows == ()


def test_samples_share_the_logprobs_of_their_prompt() -> None:
    engine, _ = engine_with()
    job = engine.submit(Request(prompt=[1, 2, 3], config=config(4, prompt_logprobs=0, n=2, rng_seed=1)))
    run(engine)
    first, second = job.sequences
    assert first.prompt_logprobs == second.prompt_logprobs
    assert first.generated != second.generated


def test_a_row_that_is_full_may_sit_beside_those_that_run() -> None:
    """A draft that came to nothing leaves a row as long as its valid part: others' padding would go beyond it."""
    for num_slots, room in ((64, 32), (32, 16)):  # room to grow, or none
        runner = FakeRunner(num_slots)
        length = 16 - num_reserved()
        full, row = (runner.cache.allocate(length) for _ in range(2))
        runner.prefill_chunk(full, [1] * length)
        runner.cache.truncate(full, length)
        runner.prefill_chunk(row, [1] * 10)
        assert len(runner.cache.groups) == 1
        text = submit(engine_with()[0], [1] * 10, config(5))
        text.row, text.num_computed = row, 10
        text.tokens.append(2)
        (outcome,), failures = DecodeStep(runner).run([Work(sequence=text)])  # type: ignore[arg-type]
        assert not failures
        assert runner.cache.capacity(full) == room - num_reserved()
        np.testing.assert_array_equal(outcome.logits[0], next_logits([*[1] * 10, 2]))
        assert read_tokens(runner.cache, full) == [1] * length


class Broken(Oracle):
    def propose(self, tokens: abc.Sequence[int], max_tokens: int) -> list[int]:
        if len(tokens) > 8:
            raise GraphRunError("injected failure")
        return super().propose(tokens, max_tokens)


def test_drafts_that_fail_are_done_without() -> None:
    engine, runner = engine_with()
    expected = greedy_continuation([1, 2, 3], 20)
    text = submit(engine, [1, 2, 3], config(20))
    other = submit(engine, [4], config(20))
    oracle = Broken([1, 2, 3, *expected], 0.0, random.Random(0))
    text.drafter = Drafter(oracle, max_length=3)
    run(engine)
    assert text.generated == expected
    assert text.drafter.budget.num_drafted > 0
    assert other.generated == greedy_continuation([4], 20)
    assert oracle.is_closed
    assert runner.cache.rows == ()


def test_a_draft_model_runs_a_long_prompt_in_pieces() -> None:
    """In one step it would keep everybody waiting; what other prompts leave of each step's tokens is its part."""
    prompt = [n % VOCAB_SIZE for n in range(300)]
    engine, _ = engine_with(num_slots=4096, chunk=48)
    drafting = FakeRunner(4096)
    model = DraftModel(lambda: contextlib.nullcontext(drafting))  # type: ignore[arg-type]
    text = submit(engine, prompt, config(40), draft_model=model)
    longest = 0
    while engine.has_work:
        before = sum(map(drafting.cache.valid, drafting.cache.rows))
        engine.step()
        longest = max(longest, sum(map(drafting.cache.valid, drafting.cache.rows)) - before)
    assert text.generated == greedy_continuation(prompt, 40)
    assert text.drafter is not None
    assert text.drafter.budget.num_accepted > 10, "it drafts when it has caught up"
    assert longest <= 48 + 32 + text.config.draft_length


def test_a_draft_model_waits_while_prompts_need_all_of_a_step() -> None:
    drafting = FakeRunner(4096)
    proposer = ModelProposer(DraftModel(lambda: contextlib.nullcontext(drafting)))  # type: ignore[arg-type]
    nothing, little = Allowance(num_tokens=0), Allowance(num_tokens=70)
    assert not proposer.catch_up([1] * 100, nothing)
    assert not proposer.catch_up([1] * 200, little)
    assert drafting.num_runs == math.ceil(70 / drafting.chunk(0))
    assert little.num_tokens == 0
    assert proposer.catch_up([1] * 200, Allowance(num_tokens=1000))
    assert proposer.propose([1] * 200, 3) == greedy_continuation([1] * 200, 3)
