"""Thousands of prompts of one caller: in the engine are as many as keep its rows busy, and the texts are the same."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from genai.config import EngineConfig
from genai.engine.scheduler import Plan, Scheduler
from genai.errors import CapacityError, QueueFullError
from genai.llm.llm import LLM
from genai.llm.together import QUEUED_PER_ROW, Together
from tests.tiny_package import tiny_package

MAX_BATCH = 2
OPTIONS = {"max_new_tokens": 6, "ignore_eos": True, "temperature": 0.9, "seed": 4}
PROMPTS = [f"prompt {number}" for number in range(40)]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_package(tmp_path_factory.mktemp("together") / "tiny")


@pytest.fixture
def llm(package: Path, request: pytest.FixtureRequest) -> Iterator[LLM]:
    settings = {"max_seq_len": 200, "prefix_cache_bytes": 0} | getattr(request, "param", {})
    with LLM(package, EngineConfig(device="cpu", num_threads=1, max_batch=MAX_BATCH, **settings)) as model:
        yield model


@pytest.fixture
def in_the_engine(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many sequences each step had to look at."""
    seen: list[int] = []
    plan = Scheduler.plan

    def counted(self: Scheduler, *arguments: object) -> Plan:
        seen.append(len(self.waiting) + len(self.running))
        return plan(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Scheduler, "plan", counted)
    return seen


def test_a_step_looks_at_few(llm: LLM, in_the_engine: list[int]) -> None:
    results = llm.generate(PROMPTS, **OPTIONS)
    assert max(in_the_engine) <= QUEUED_PER_ROW * MAX_BATCH
    assert sum(count >= MAX_BATCH for count in in_the_engine) > 0.8 * len(in_the_engine), "rows are kept busy"
    assert [each.token_ids for each in results] == [llm.generate(prompt, **OPTIONS).token_ids for prompt in PROMPTS]


def test_what_cannot_be_done_is_refused_before_anything_runs(llm: LLM, in_the_engine: list[int]) -> None:
    with pytest.raises(CapacityError):
        llm.generate([*PROMPTS, list(range(1, 20)) * 20], **OPTIONS)
    assert not in_the_engine


def test_time_runs_for_all_from_the_beginning(llm: LLM) -> None:
    results = llm.generate(PROMPTS, timeout=0.0, **OPTIONS)
    assert {each.choices[0].finish_reason for each in results} == {"timeout"}


@pytest.mark.parametrize("llm", [{"max_waiting": 1}], indirect=True)
def test_a_short_queue_is_enough(llm: LLM) -> None:
    assert len(llm.generate(PROMPTS, **OPTIONS)) == len(PROMPTS)


@pytest.mark.parametrize("llm", [{"max_waiting": 0}], indirect=True)
def test_a_queue_that_takes_nothing_is_told(llm: LLM) -> None:
    with pytest.raises(QueueFullError):
        llm.generate(PROMPTS, **OPTIONS)


class _Late(threading.Event):
    """Waits for the last end before it is cleared, as a thread that was held up there would."""

    def __init__(self, all_over: threading.Event) -> None:
        super().__init__()
        self._all_over = all_over
        self._is_first = True

    def clear(self) -> None:
        if not self._is_first:
            assert self._all_over.wait(30)
        self._is_first = False
        super().clear()


def test_an_end_that_comes_while_nobody_waits_is_seen(llm: LLM) -> None:
    all_over = threading.Event()
    prepared = [llm.prepare("prompt", **OPTIONS | {"max_new_tokens": count}) for count in (2, 20)]
    together = Together(llm.loop, prepared, MAX_BATCH)
    together._one_more = _Late(all_over)
    ended = together._ended

    def counted() -> None:
        ended()
        if together._num_over == 2:
            all_over.set()

    together._ended = counted  # type: ignore[method-assign]
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.extend(together.results()), daemon=True)
    thread.start()
    thread.join(20)
    assert len(results) == 2
