"""Everything at once, short of room: whatever else runs, each text is the one that its request gives alone.

The fake model reads its cache, so one wrong copy gives a wrong text. Every mix is made from its seed.
"""

from __future__ import annotations

import random
from collections import abc
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from genai.engine.beside import Beside
from genai.engine.consumers import Keep
from genai.engine.drafting.drafts import Drafter
from genai.engine.request import Request
from genai.engine.sequence import FinishReason, Job, Sequence, State, TokenEvent
from genai.errors import NotFiniteError
from genai.options.generation_config import GenerationConfig
from genai.runtime.adapters import ScaledAdapter
from genai.runtime.capacity import CapacityPolicy, StepCost
from tests.engine.conftest import WITH_BOTH
from tests.engine.drafting.test_drafts import Oracle
from tests.engine.test_engine import config, engine_with, run
from tests.fakes import (
    ADAPTER_SHIFT,
    POISON,
    VOCAB_SIZE,
    ExactCapacities,
    FakeRunner,
    OneGroup,
    fitted_adapter,
    read_tokens,
)

pytestmark = pytest.mark.usefixtures("each_memory", "many_snapshots")

MAX_SEQ_LEN = 56
WHOLE: set[FinishReason] = {"stop", "length"}


@pytest.fixture
def many_snapshots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of texts as short as these, too, where there are states."""
    for name in ("_WORTH_A_CUT", "_WORTH_A_GUESS"):
        monkeypatch.setattr(f"genai.engine.rows.{name}", 16)
    monkeypatch.setattr("genai.engine.rows._BEHIND_PROMPT", 2)


class Script:
    """A constraint that leaves some choice, then none for a while, and is complete after so many tokens."""

    def __init__(self, length: int, tokens: abc.Sequence[int] = ()) -> None:
        self.length, self.tokens = length, list(tokens)

    def _mask(self, tokens: abc.Sequence[int]) -> np.ndarray:
        mask = np.zeros(VOCAB_SIZE, np.bool_)
        if len(tokens) < self.length:
            seed = sum(tokens) + 7 * len(tokens)
            mask[[seed % VOCAB_SIZE] if seed % 3 else slice(seed % 5, None, 4)] = True
        return mask

    def mask(self) -> np.ndarray:
        return self._mask(self.tokens)

    @property
    def is_complete(self) -> bool:
        return len(self.tokens) >= self.length

    def accept(self, token: int) -> None:
        self.tokens.append(token)

    def forced(self) -> list[int]:
        tokens = list(self.tokens)
        while (mask := self._mask(tokens)).sum() == 1:
            tokens.append(int(mask.argmax()))
        return tokens[len(self.tokens) :]

    def rollback(self, num_tokens: int) -> None:
        del self.tokens[len(self.tokens) - num_tokens :]

    def copy(self) -> Script:
        return Script(self.length, self.tokens)


@dataclass
class Witness:
    """A sink that stops a text at a token divisible by `stop`, and pauses texts now and then as a slow reader does."""

    stop: int | None = None
    rng: random.Random | None = None
    events: dict[int, list[TokenEvent]] = field(default_factory=dict)

    def accept(self, event: TokenEvent) -> bool:
        return bool(self.stop and event.token and event.token % self.stop == 0)

    def deliver(self, event: TokenEvent) -> None:
        self.events.setdefault(event.sequence.index, []).append(event)
        if self.rng is not None and event.finish_reason is None and self.rng.random() < 0.05:
            event.sequence.pause(State.READER_BEHIND)

    def check(self, job: Job) -> None:
        for sequence in job.sequences:
            events = self.events[sequence.index]
            assert [event.finish_reason for event in events[:-1]] == [None] * (len(events) - 1), "one end, the last"
            assert events[-1].finish_reason == sequence.finish_reason is not None
            if not isinstance(sequence.consumer, Keep):  # nor rewound
                assert [event.token for event in events if event.token is not None] == sequence.generated


def random_request(rng: random.Random) -> Request:
    """Any kind of request whose texts fit; without a sink."""
    prompt = [rng.randrange(VOCAB_SIZE) for _ in range(rng.choice([1, 3, 16, 17, rng.randint(1, 30)]))]
    settings = GenerationConfig(max_new_tokens=rng.choice([0, 1, rng.randint(2, 24)]), ignore_eos=rng.random() < 0.5)
    kind = rng.choice(["greedy", "sampled", "several", "beams", "beams", "scripted", "manual"])
    options: dict[str, object] = {}
    if rng.random() < 0.3:
        options["repetition_penalty"] = 1.4
    if rng.random() < 0.3:
        options["prompt_logprobs"] = 1
    if kind == "beams":
        groups = rng.choice([1, 1, 2])
        options |= {"num_beams": rng.choice([2, 4]), "num_beam_groups": groups, "early_stopping": rng.random() < 0.5}
        options |= {"num_return_sequences": rng.randint(1, 2)} | ({"diversity_penalty": 0.7} if groups > 1 else {})
    elif kind in {"sampled", "several"}:
        options |= {"temperature": 0.9, "top_k": rng.choice([0, 5]), "seed": rng.randrange(99)}
        options |= {"n": rng.randint(2, 4)} if kind == "several" else {}
    if kind not in {"beams", "manual"} and rng.random() < 0.4:
        options |= {"logprobs": True, "top_logprobs": 2}
    return Request(
        prompt=prompt,
        config=settings.updated(**options),
        priority=rng.randint(0, 1),
        constraint=Script(rng.randint(0, 20)) if kind == "scripted" else None,
        is_manual=kind == "manual",
    )


@dataclass
class Case:
    """A request in the mix, and what it gives alone."""

    request: Request
    stop: int | None
    alone: Job
    witness: Witness
    job: Job | None = None
    is_disturbed: bool = False

    @property
    def is_cut(self) -> bool:
        """Whether a text has an end that it does not have alone."""
        assert self.job is not None
        pairs = zip(self.job.sequences, self.alone.sequences, strict=True)
        return any(each.finish_reason not in WHOLE and not overflowed(each, same) for each, same in pairs)


def overflowed(*texts: Sequence) -> bool:
    """Whether each of them ended because its logits were not finite."""
    return all(isinstance(text.error, NotFiniteError) for text in texts)


def alone(
    request: Request, stop: int | None, poison: tuple[int, ...], adapter: int = 0, max_seq_len: int = MAX_SEQ_LEN
) -> Job:
    engine, runner = engine_with(max_seq_len=max_seq_len, poison=poison, num_adapters=1)
    assert runner.adapters is not None
    loaded = ScaledAdapter(engine.load_adapter(fitted_adapter(runner.adapters, adapter))) if adapter else None
    job = engine.submit(replace(request, is_manual=False, sink=Witness(stop), adapter=loaded))
    run(engine)
    assert runner.cache.rows == ()
    return job


def random_case(rng: random.Random, poison: tuple[int, ...]) -> Case:
    return case_of(random_request(rng), rng, poison)


def case_of(request: Request, rng: random.Random, poison: tuple[int, ...], adapter: int = 0) -> Case:
    """adapter: the number of the one that its texts have alone, 0 for none."""
    stop = 11 if rng.random() < 0.3 and not request.config.is_beam_search and not request.is_manual else None
    witness = Witness(stop, None if request.is_manual else rng)
    return Case(request=request, stop=stop, alone=alone(request, stop, poison, adapter), witness=witness)


def assert_clean(runner: FakeRunner) -> None:
    """No infinity stays anywhere, in rows or between them."""
    cache = runner.cache
    layouts = [cache._near.layout if each.is_windowed else cache._layout for each in cache.shape.caches]
    pairs = zip(layouts, cache.shape.slot_bytes, strict=True)
    sizes = [layout.num_slots * slot_bytes for layout, slot_bytes in pairs]
    parts = zip(cache._buffers, sizes, strict=True)
    assert cache.shape.is_finite([buffer.read(0, size) for buffer, size in parts])


class Mix:
    """Submits, steps and interferes, all by chance. is_beside: sinks are told on a thread beside the graph's runs."""

    def __init__(
        self, rng: random.Random, failing: float = 0.0, *, is_beside: bool = False, num_adapters: int = 0
    ) -> None:
        self.rng = rng
        self.beside = Beside()
        self.poison = rng.choice([(), (), (POISON,), (0, 50)])
        self.engine, self.runner = engine_with(
            num_slots=rng.choice([MAX_SEQ_LEN, 90, 150, 400]),
            max_batch=rng.choice([1, 2, 4, 8]),
            max_seq_len=MAX_SEQ_LEN,
            chunk=rng.choice([3, 16, 64]),
            prefix_bytes=rng.choice([0, 2000, 10**5]),
            fails=lambda run: rng.random() < failing,
            poison=self.poison,
            num_adapters=num_adapters,
        )
        if is_beside:
            self.engine.tell_on(self.beside, lambda: None)
        self.cases: list[Case] = []

    def case(self) -> Case:
        return random_case(self.rng, self.poison)

    def submit(self) -> None:
        case = self.case()
        case.job = self.engine.submit(replace(case.request, sink=case.witness))
        self.cases.append(case)
        if not case.request.config.is_beam_search and not case.request.is_manual and self.rng.random() < 0.5:
            for sequence, same in zip(case.job.sequences, case.alone.sequences, strict=True):
                oracle = Oracle(same.tokens, self.rng.choice([0.0, 0.2, 1.0]), self.rng)
                sequence.drafter = Drafter(oracle, max_length=6)
                sequence.drafter.budget.length = lambda token_cost: 6  # type: ignore[method-assign]

    def step(self) -> None:
        self.engine.step()
        self.runner.cache.check_integrity()
        assert_clean(self.runner)
        idle = self.engine._rows._idle
        for row in self.runner.cache.idle:
            shift = ADAPTER_SHIFT * sum(idle[row].adapter)
            assert read_tokens(self.runner.cache, row) == [token + shift for token in idle[row].tokens]
        held = [sequence.row for sequence in self.engine.running]
        assert sorted(self.runner.cache.rows) == sorted(held), "rows are those of what runs"  # type: ignore[type-var]
        self.tend_all()

    def tend_all(self) -> None:
        for case in self.cases:
            assert case.job is not None
            for sequence in case.job.sequences:
                self.tend(case, sequence)

    def tend(self, case: Case, sequence: Sequence) -> None:
        """What readers and owners of manual texts do."""
        if sequence.finish_reason is not None:
            return
        if case.request.is_manual:
            if len(sequence.tokens) >= sequence.max_tokens:
                self.engine.cancel(sequence.job)  # type: ignore[arg-type]
            elif sequence.logits is not None and self.rng.random() < 0.5:
                if self.rng.random() < 0.1 and sequence.generated:
                    self.engine.rewind(sequence, self.rng.randint(sequence.num_prompt, len(sequence.tokens)))
                else:
                    self.engine.pick(sequence)
            else:
                self.engine.demand(sequence)
        elif sequence.state is State.READER_BEHIND and self.rng.random() < 0.3:
            sequence.resume()

    def interfere(self) -> None:
        """Cancel a job, or let its time be up."""
        case = self.rng.choice(self.cases)
        assert case.job is not None
        case.is_disturbed = True
        if self.rng.random() < 0.5:
            self.engine.cancel(case.job)
            return
        run = case.job.first.search
        for sequence in case.job.sequences if run is None else (*run.beams, *run.spare, *run.beams[0].forks):
            sequence.deadline = 0.0

    def finish(self) -> None:
        for _ in range(5000):
            if not self.engine.has_work:
                break
            self.step()
        self.beside.close()
        assert not self.engine.has_work, "it comes to an end"
        assert self.runner.cache.rows == ()
        assert not self.engine.running
        for case in self.cases:
            check(case)


def check(case: Case) -> None:
    assert case.job is not None
    assert case.job.is_over
    case.witness.check(case.job)
    for sequence, same in zip(case.job.sequences, case.alone.sequences, strict=True):
        if (case.is_disturbed or case.is_cut) and case.request.config.is_beam_search:
            continue  # the best so far
        count = len(sequence.generated)
        assert sequence.generated == same.generated[:count]
        assert sequence.logprobs == same.logprobs[: len(sequence.logprobs)]
        assert len(sequence.logprobs) == (count if case.request.config.logprobs else 0)
        if sequence.finish_reason in WHOLE or overflowed(sequence, same):
            assert (sequence.generated, sequence.finish_reason) == (same.generated, same.finish_reason)
            assert sequence.score == same.score  # to the bit: the fake model does not know how rows are grouped
        if sequence.finish_reason in WHOLE:
            assert sequence.prompt_logprobs == same.prompt_logprobs


@pytest.mark.parametrize("is_beside", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_each_text_is_the_one_it_is_alone(seed: int, is_beside: bool) -> None:
    rng = random.Random(seed)
    mix = Mix(rng, is_beside=is_beside)
    for _ in range(rng.randint(2, 9)):
        mix.submit()
        for _ in range(rng.choice([0, 0, 1, 5])):
            mix.step()
    mix.finish()
    assert not any(case.is_cut for case in mix.cases if not case.request.is_manual)


@pytest.mark.parametrize("each_memory", WITH_BOTH, indirect=True)
@pytest.mark.parametrize("seed", range(20))
def test_windows_beside_states(seed: int) -> None:
    test_each_text_is_the_one_it_is_alone(6000 + seed, is_beside=False)


@pytest.mark.parametrize(
    "policy", [ExactCapacities(), OneGroup(), CapacityPolicy(headroom=0)], ids=["exact", "one group", "no headroom"]
)
@pytest.mark.parametrize("seed", range(15))
def test_another_capacity_policy_changes_no_text(seed: int, policy: CapacityPolicy) -> None:
    rng = random.Random(3000 + seed)
    mix = Mix(rng)
    mix.runner.cache.policy = policy
    for _ in range(rng.randint(2, 9)):
        mix.submit()
        for _ in range(rng.choice([0, 0, 1, 5])):
            mix.step()
    mix.finish()
    assert not any(case.is_cut for case in mix.cases if not case.request.is_manual)
    assert not isinstance(policy, ExactCapacities) or {rows for rows, _ in mix.runner.group_sizes} <= {1}


@pytest.mark.parametrize("is_beside", [False, True])
@pytest.mark.parametrize("seed", range(60))
def test_whatever_is_cut_short_leaves_the_others_alone(seed: int, is_beside: bool) -> None:
    rng = random.Random(1000 + seed)
    mix = Mix(rng, failing=rng.choice([0.0, 0.03]), is_beside=is_beside)
    for _ in range(rng.randint(2, 9)):
        mix.submit()
        for _ in range(rng.choice([0, 1, 5, 20])):
            mix.step()
            if rng.random() < 0.15:
                mix.interfere()
    mix.finish()


@pytest.mark.parametrize("share", [0.5, 0.7, 0.9, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_a_cache_smaller_than_the_need_changes_no_text(seed: int, share: float) -> None:
    """Of what all texts need at once; long prompts among short ones, of any priority, some with a token that overflows.

    With and without headroom.
    """
    rng = random.Random(5000 + seed)
    poison = rng.choice([(), (POISON,)])
    asked: list[Request] = []
    for _ in range(rng.randint(6, 16)):
        prompt = [rng.randrange(POISON) for _ in range(rng.choice([rng.randint(1, 20), rng.randint(150, 400)]))]
        if rng.random() < 0.2:
            prompt[rng.randrange(len(prompt))] = POISON
        asked.append(Request(prompt=prompt, config=config(rng.randint(1, 40)), priority=rng.randint(-2, 2)))
    needs = [len(request.prompt) + (request.config.max_new_tokens or 0) for request in asked]
    engine, runner = engine_with(
        num_slots=max(int(share * sum(needs)), *needs),
        max_batch=rng.choice([3, 16]),
        max_seq_len=max(needs),
        chunk=rng.choice([48, 512]),
        prefix_bytes=rng.choice([0, 10**5]),
        poison=poison,
    )
    cost = StepCost(weights=rng.choice([1e-5, 1e-3]), row=1e-5, slot=1e-7)
    runner.cache.policy = CapacityPolicy(cost=cost, headroom=rng.choice([0, 64]))
    witnesses = [Witness() for _ in asked]
    jobs = []
    for request, witness in zip(asked, witnesses, strict=True):
        jobs.append(engine.submit(replace(request, sink=witness)))
        for _ in range(rng.choice([0, 1, 8])):
            engine.step()
    for _ in range(3000):
        if not engine.has_work:
            break
        engine.step()
        runner.cache.check_integrity()
        assert_clean(runner)
    assert not engine.has_work, "it comes to an end"
    for job, request, witness in zip(jobs, asked, witnesses, strict=True):
        witness.check(job)
        same = alone(request, None, poison, max_seq_len=max(needs)).first
        assert job.first.generated == same.generated
        assert overflowed(job.first, same) or job.first.finish_reason == same.finish_reason == "length"


def test_a_broken_step_ends_everything() -> None:
    for seed in range(20):
        rng = random.Random(2000 + seed)
        mix = Mix(rng)
        for _ in range(5):
            mix.submit()
        for _ in range(rng.randint(1, 12)):
            mix.step()
        num_runs = mix.runner.num_runs

        def broken(run: int, last: int = num_runs + rng.randrange(4)) -> bool:
            if run >= last:
                raise ZeroDivisionError
            return False

        mix.runner.fails = broken
        try:
            for _ in range(200):
                mix.step()
        except ZeroDivisionError:
            pass
        mix.runner.fails = lambda run: False
        mix.finish()
        for case in mix.cases:
            assert case.job is not None
