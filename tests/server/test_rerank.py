"""`POST /v1/rerank` over a tiny model: what it tells is what `LLM.score` gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from genai.config import EngineConfig
from genai.llm.llm import LLM
from tests.llm.reading_models import TEXTS, reranker
from tests.server.live import LiveServer, live_server
from tests.tiny_package import tiny_package

QUERY = "which animals sit?"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return reranker(tmp_path_factory.mktemp("reranker"))[1]


@pytest.fixture(scope="module")
def live(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    other = tiny_package(tmp_path_factory.mktemp("server") / "tiny")
    with live_server({"judge": package, "other": other}) as server:
        yield server


@pytest.fixture(scope="module")
def scores(package: Path) -> np.ndarray:
    with LLM(package, EngineConfig(device="cpu", kv_cache_bytes=8 << 20)) as llm:
        return llm.score(QUERY, TEXTS)


def reranked(live: LiveServer, path: str = "/v1/rerank", **body: object) -> httpx.Response:
    return live.http.post(path, json={"query": QUERY, "documents": TEXTS, **body})


def test_the_best_come_first(live: LiveServer, scores: np.ndarray) -> None:
    for path in ("/v1/rerank", "/rerank"):
        told = reranked(live, path, model="judge").json()
        order = [result["index"] for result in told["results"]]
        assert order == list(np.argsort(-scores, kind="stable"))
        for result in told["results"]:
            assert result.keys() == {"index", "relevance_score"}
            assert result["relevance_score"] == pytest.approx(scores[result["index"]], abs=1e-5)
        assert (told["object"], told["model"]) == ("list", "judge")
        assert told["usage"]["prompt_tokens"] == told["usage"]["total_tokens"] > 200 * len(TEXTS)


def test_documents_and_how_many(live: LiveServer, scores: np.ndarray) -> None:
    documents = [{"text": text, "title": "ignored"} for text in TEXTS]
    told = reranked(live, documents=documents, top_n=2, return_documents=True).json()["results"]
    best = np.argsort(-scores)[:2]
    assert [result["document"] for result in told] == [{"text": TEXTS[index]} for index in best]
    assert len(reranked(live, top_n=100).json()["results"]) == len(TEXTS)
    asked = reranked(live, instruction="Find animals").json()["results"]
    assert asked != reranked(live).json()["results"]


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"documents": []}, 400, "invalid_value", "documents"),
        ({"documents": ["a"] * 2049}, 400, "invalid_value", "documents"),
        ({"documents": ["a", 3]}, 400, "invalid_type", "documents[1]"),
        ({"query": None}, 400, "missing_required_parameter", "query"),
        ({"top_n": 0}, 400, "invalid_value", "top_n"),
        ({"documents": ["a", "x" * 2000]}, 400, "context_length_exceeded", "documents"),
        ({"model": "other"}, 404, "unsupported_endpoint", "model"),
        ({"model": "none"}, 404, "model_not_found", "model"),
    ],
)
def test_what_is_refused(live: LiveServer, body: dict[str, object], status: int, code: str, param: str) -> None:
    answer = reranked(live, **body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, code, param), error
    if code == "context_length_exceeded":
        assert "documents[1]" in error["message"]


def test_a_query_does_not_ask_for_millions_of_tokens(live: LiveServer) -> None:
    """It stands in the prompt of each document: this body has 13 kB, and the prompts have 1.6 million tokens."""
    error = reranked(live, query="q" * 500, documents=["a"] * 2048).json()["error"]
    assert error["message"] == "all prompts together have more than 1,000,000 tokens; send several requests"
    assert (error["code"], error["param"]) == ("context_length_exceeded", "documents")


def test_who_hangs_up_frees_the_rows(live: LiveServer) -> None:
    with pytest.raises(httpx.ReadTimeout):
        live.http.post(
            "/v1/rerank", json={"query": QUERY, "documents": [f"{n} " * 60 for n in range(1000)]}, timeout=0.5
        )
    assert reranked(live).status_code == 200
    for _ in range(1000):
        status = live.http.get("/v1/status").json()
        if not status["running"] and not status["waiting"]:
            return
    pytest.fail(f"still at it: {status}")
