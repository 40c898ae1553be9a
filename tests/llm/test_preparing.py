"""Requests that are being prepared: slow grammars delay nobody else, and all count among those that wait."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from genai.config import EngineConfig
from genai.errors import QueueFullError
from genai.grammar import grammar
from genai.llm import async_llm
from genai.llm.async_llm import AsyncLLM
from genai.llm.llm import LLM
from genai.llm.prepare import Preparer
from tests.tiny_package import tiny_package

CONFIG = EngineConfig(device="cpu", num_threads=1, max_seq_len=500, max_waiting=3)


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_package(tmp_path_factory.mktemp("preparing") / "tiny")


class Gate:
    """Holds up threads that come through; started: how many have come."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.started = 0

    def __call__(self, *given: object) -> None:
        self.started += 1
        assert self.is_open.wait(60)


@pytest.fixture
def slow_grammars(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Grammars with "slow" in them compile when the gate is opened."""
    gate, original = Gate(), grammar.compiled

    def compiled(tokenizer: object, source: str, kind: str) -> object:
        if "slow" in source:
            gate()
        return original(tokenizer, source, kind)  # type: ignore[arg-type]

    monkeypatch.setattr(grammar, "compiled", compiled)
    yield gate
    gate.is_open.set()


@pytest.fixture
def slow_encoding(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """Prompts are encoded when the gate is opened."""
    gate, original = Gate(), Preparer.begin

    def begin(*given: object, **more: object) -> object:
        gate()
        return original(*given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(Preparer, "begin", begin)
    yield gate
    gate.is_open.set()


async def text_of(model: AsyncLLM, prompt: object = "x", **options: object) -> str:
    options = {"max_new_tokens": 6, **options}
    return "".join([chunk.text async for chunk in await model.submit(prompt, **options)])  # type: ignore[arg-type]


async def until(gate: Gate, num: int = 1) -> None:
    while gate.started < num:
        await asyncio.sleep(0.002)


def test_a_slow_grammar_delays_no_request_without_one(package: Path, slow_grammars: Gate) -> None:
    async def main(llm: LLM) -> None:
        model = AsyncLLM(llm)
        assert await text_of(model, regex="known") == "known"
        slow = [asyncio.create_task(text_of(model, regex=f"slow{n}")) for n in range(2)]
        await until(slow_grammars)
        assert await asyncio.wait_for(text_of(model), 20) == llm.generate("x", max_new_tokens=6).text
        assert await asyncio.wait_for(text_of(model, regex="known"), 20) == "known"
        assert not any(task.done() for task in slow)
        slow_grammars.is_open.set()
        assert await asyncio.gather(*slow) == ["slow0", "slow1"]
        model.close()

    with LLM(package, CONFIG) as llm:
        asyncio.run(asyncio.wait_for(main(llm), 60))


@pytest.mark.parametrize("is_slow_to", ["encode", "compile"])
def test_what_is_prepared_counts_among_those_that_wait(
    package: Path, is_slow_to: str, slow_grammars: Gate, slow_encoding: Gate
) -> None:
    if is_slow_to == "compile":
        slow_encoding.is_open.set()
    gate = slow_encoding if is_slow_to == "encode" else slow_grammars

    async def main(llm: LLM) -> None:
        model = AsyncLLM(llm)
        tasks = [asyncio.create_task(text_of(model, regex=f"slow{n}")) for n in range(3)]
        await until(gate)
        await asyncio.sleep(0)
        assert model.engine.num_waiting == 3
        with pytest.raises(QueueFullError, match="3 requests are waiting, the most allowed"):
            await text_of(model)
        tasks[2].cancel()
        await asyncio.gather(tasks[2], return_exceptions=True)
        assert model.engine.num_waiting == 2
        tasks[2] = asyncio.create_task(text_of(model, regex="slow2"))
        await asyncio.sleep(0)
        assert model.engine.num_waiting == 3
        gate.is_open.set()
        slow_grammars.is_open.set()
        assert await asyncio.gather(*tasks) == ["slow0", "slow1", "slow2"]
        assert model.engine.num_waiting == 0
        model.close()

    with LLM(package, CONFIG) as llm:
        asyncio.run(asyncio.wait_for(main(llm), 60))


def test_few_wait_for_grammars_to_be_compiled(
    package: Path, slow_grammars: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(async_llm, "_MAX_COMPILING", 1)

    async def main(llm: LLM) -> None:
        model = AsyncLLM(llm)
        slow = asyncio.create_task(text_of(model, regex="slow"))
        await until(slow_grammars)
        with pytest.raises(QueueFullError, match="1 requests wait for grammars to be compiled; try again later"):
            await text_of(model, regex="other")
        slow_grammars.is_open.set()
        assert await slow == "slow"
        assert await text_of(model, regex="other") == "other"
        model.close()

    with LLM(package, CONFIG) as llm:
        asyncio.run(asyncio.wait_for(main(llm), 60))


def test_the_time_that_preparing_takes_counts(package: Path, slow_encoding: Gate) -> None:
    async def main(llm: LLM) -> None:
        model = AsyncLLM(llm)
        task = asyncio.create_task(text_of(model, timeout=0.05, max_new_tokens=400))
        await until(slow_encoding)
        await asyncio.sleep(0.1)
        slow_encoding.is_open.set()
        assert await task == ""
        model.close()

    with LLM(package, CONFIG) as llm:
        asyncio.run(asyncio.wait_for(main(llm), 60))
