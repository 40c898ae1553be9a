"""A checkpoint in which one token's values overflow: who sends it gets an error, and everybody else their text."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from genai.config import Device, EngineConfig
from genai.errors import GraphRunError
from genai.llm.llm import LLM
from tests.device_double import registered
from tests.random_model import RandomSource
from tests.server.live import LiveServer, live_server
from tests.tiny_package import tiny_package

INNOCENT = ["Hello there, my old friend", "Hello there, my new friend", "What", "A text of its own"]
GUILTY = ["!", "Hello there, my old friend!", "Hello there! my new friend", "x" * 70 + "!" + "y" * 70]
OPTIONS = {"ignore_eos": True, "temperature": 0.0}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_package(
        tmp_path_factory.mktemp("overflow") / "tiny", weights_of=partial(RandomSource, overflowing=ord("!"))
    )


@pytest.fixture(scope="module")
def expected(package: Path) -> dict[str, str]:
    """What each gives on a model that has seen nothing else."""
    with LLM(package, EngineConfig(device="cpu", num_threads=1, prefix_cache_bytes=0)) as llm:
        texts = {prompt: llm.generate(prompt, max_new_tokens=12, **OPTIONS).text for prompt in INNOCENT}
    assert not any("!" in text for text in texts.values())
    return texts


@pytest.fixture
def live(package: Path) -> Iterator[LiveServer]:
    with live_server({"tiny": package}) as server:
        yield server


def complete(live: LiveServer, prompt: str) -> tuple[int, str]:
    """The status, and the text or what is said instead."""
    body = {"model": "tiny", "prompt": prompt, "max_tokens": 12, **OPTIONS}
    answer = live.http.post("/v1/completions", json=body)
    told = answer.json()
    return answer.status_code, told["choices"][0]["text"] if answer.is_success else told["error"]["message"]


@pytest.mark.parametrize("device", ["cpu", "double"])
def test_through_the_engine(package: Path, expected: dict[str, str], device: Device) -> None:
    with registered(), LLM(package, EngineConfig(device=device, num_threads=1, max_seq_len=400, max_batch=4)) as llm:
        for prompt in GUILTY:
            with pytest.raises(GraphRunError, match="not finite"):
                llm.generate([*INNOCENT, prompt], max_new_tokens=12, **OPTIONS)
            with pytest.raises(GraphRunError, match="not finite"):
                llm.logits(llm.tokenizer.encode(prompt))
            answers = llm.generate(INNOCENT, max_new_tokens=12, **OPTIONS)
            assert [answer.text for answer in answers] == [expected[prompt] for prompt in INNOCENT]


def test_through_the_server(live: LiveServer, expected: dict[str, str]) -> None:
    for prompt in GUILTY:
        status, message = complete(live, prompt)
        assert status == 500
        assert "not finite" in message
        for innocent in INNOCENT:
            assert complete(live, innocent) == (200, expected[innocent])


def test_at_the_same_time(live: LiveServer, expected: dict[str, str]) -> None:
    """Many of both, in one batch and on one prefix cache."""
    together = threading.Barrier(8)

    def client(number: int) -> None:
        together.wait()
        for turn in range(6):
            innocent, guilty = INNOCENT[(number + turn) % 4], GUILTY[(number + turn) % 4]
            if number % 2:
                assert complete(live, guilty)[0] == 500
            else:
                assert complete(live, innocent) == (200, expected[innocent])

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(client, range(8)))
