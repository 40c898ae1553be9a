"""Scores of documents against transformers' log probabilities, however they are run."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai.config import EngineConfig
from genai.errors import CapacityError, ConfigError, DeadlineError, QueueFullError, TaskError, TextTooLongError
from genai.llm.async_llm import AsyncLLM
from genai.llm.llm import LLM
from genai.llm.scoring import INSTRUCTION
from tests.llm.reading_models import TEXTS, last_logits, reranker
from tests.tiny_package import tiny_package

QUERY = "which animals sit?"
CONFIG = EngineConfig(device="cpu", num_threads=1, max_batch=4, kv_cache_bytes=8 << 20, prefix_cache_bytes=4 << 20)
TOLERANCE = 2e-5  # of probabilities; measured: 6e-7


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    return reranker(tmp_path_factory.mktemp("reranker"))


@pytest.fixture(scope="module")
def llm(made: tuple[Any, Path]) -> Iterator[LLM]:
    with LLM(made[1], CONFIG) as llm:
        yield llm


@pytest.fixture(autouse=True)
def nothing_is_left(llm: LLM) -> Iterator[None]:
    yield
    llm.loop.settle()
    assert not llm.engine.has_work
    assert llm._runner.cache.rows == ()


def prompt(document: str, instruction: str = INSTRUCTION) -> str:
    """Qwen3-Reranker's prompt in the tiny model's template."""
    judge = "Judge whether the Document meets the requirements based on the Query and the Instruct provided. "
    system = judge + 'Note that the answer can only be "yes" or "no".'
    user = f"<Instruct>: {instruction}\n<Query>: {QUERY}\n<Document>: {document}"
    return f"<|begin|>system\n{system}<|end|><|begin|>user\n{user}<|end|><|begin|>assistant\n"


def expected(model: Any, llm: LLM, documents: list[str], **options: str) -> np.ndarray:
    """The probability of "yes" against "no" by transformers' log probabilities."""
    scores = []
    for document in documents:
        logits = last_logits(model, llm.tokenizer.encode(prompt(document, **options), add_special_tokens=False))
        logprobs = logits - np.log(np.exp(logits).sum())
        yes, no = np.exp(logprobs[[258, 259]])
        scores.append(yes / (yes + no))
    return np.array(scores)


def test_scores_are_transformers(made: tuple[Any, Path], llm: LLM) -> None:
    scores = llm.score(QUERY, TEXTS)
    assert scores.dtype == np.float32
    assert scores.shape == (len(TEXTS),)
    np.testing.assert_allclose(scores, expected(made[0], llm, TEXTS), atol=TOLERANCE)
    assert scores.std() > 1e-3, "random models tell documents apart, too"
    told = llm.score(QUERY, TEXTS[:2], instruction="Find animals")
    np.testing.assert_allclose(told, expected(made[0], llm, TEXTS[:2], instruction="Find animals"), atol=TOLERANCE)


def test_alone_together_and_in_pieces(made: tuple[Any, Path], llm: LLM) -> None:
    together = llm.score(QUERY, TEXTS)
    alone = np.concatenate([llm.score(QUERY, [text]) for text in TEXTS])
    np.testing.assert_allclose(alone, together, atol=TOLERANCE)
    config = EngineConfig(
        device="cpu", num_threads=1, max_batch=3, kv_cache_bytes=8 << 20, prefix_cache_bytes=0, prefill_chunk=48
    )
    with LLM(made[1], config) as chunked:
        np.testing.assert_allclose(chunked.score(QUERY, TEXTS), together, atol=TOLERANCE)


def test_what_prompts_share_is_run_once(made: tuple[Any, Path]) -> None:
    with LLM(made[1], CONFIG) as llm:
        asked = llm.scorer.ask(QUERY, TEXTS)
        outcome = asyncio.run(AsyncLLM(llm).read(lambda: asked))
    shared = len(prompt("").encode()) - 60  # bytes are tokens; whole blocks are found, and the first prompt finds none
    assert outcome.cached_tokens >= (len(TEXTS) - 1) * shared
    assert outcome.prompt_tokens == sum(len(each.request.prompt) for each in asked.requests)


def test_beside_texts_and_from_coroutines(llm: LLM) -> None:
    whole = llm.generate("a text", max_new_tokens=12, temperature=0).text
    scores = llm.score(QUERY, TEXTS)

    async def both() -> tuple[np.ndarray, str]:
        served = AsyncLLM(llm)
        stream = await served.submit("a text", max_new_tokens=12, temperature=0)
        scored = await served.score(QUERY, TEXTS)
        text = "".join([chunk.text async for chunk in stream])
        served.close()
        with pytest.raises(QueueFullError, match="closed"):
            await served.score(QUERY, TEXTS)
        return scored, text

    scored, text = asyncio.run(both())
    assert text == whole
    np.testing.assert_allclose(scored, scores, atol=TOLERANCE)


def test_who_gives_up_leaves_nothing(llm: LLM) -> None:
    async def given_up() -> None:
        task = asyncio.ensure_future(AsyncLLM(llm).score(QUERY, [f"document {n}" for n in range(200)]))
        while not llm.engine.running:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(given_up())


def test_what_cannot_be_scored(llm: LLM, tmp_path: Path) -> None:
    with pytest.raises(TextTooLongError, match=r"context length is 1024 tokens.*documents\[1\] has 1[0-9]{3} tokens"):
        llm.score(QUERY, ["short", "x" * 1000])
    with pytest.raises(TextTooLongError, match=r"documents\[0\] has at least"):
        llm.score(QUERY, ["x" * 300_000])
    for documents in ([], "text", None):
        with pytest.raises(ConfigError, match="documents is a list of strings, at least one"):
            llm.score(QUERY, documents)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"documents\[1\] is int, not a string"):
        llm.score(QUERY, ["a", 3])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="query is NoneType"):
        llm.score(None, ["a"])  # type: ignore[arg-type]
    with pytest.raises(DeadlineError, match="timeout"):
        llm.score(QUERY, TEXTS, timeout=0)
    for has_template, message in ((True, "no token 'yes'"), (False, "no chat template")):
        package = tiny_package(tmp_path / message[3:7], has_template=has_template)
        with LLM(package, CONFIG) as other, pytest.raises(TaskError, match=f"cannot score: .*{message}"):
            other.score(QUERY, ["a"])


def test_a_text_that_fills_the_context(made: tuple[Any, Path], llm: LLM) -> None:
    room = llm.max_seq_len - len(llm.tokenizer.encode(prompt(""), add_special_tokens=False))
    document = "x" * room
    np.testing.assert_allclose(llm.score(QUERY, [document]), expected(made[0], llm, [document]), atol=TOLERANCE)
    with pytest.raises(CapacityError, match="1025 tokens"):
        llm.score(QUERY, [document + "x"])
