"""Embeddings at OpenAI's, Ollama's and llama.cpp's paths over a tiny model: they are what `LLM.embed` gives."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest

from genai.build.package import build_package
from genai.config import EngineConfig
from genai.llm.llm import LLM
from tests.llm.reading_models import QUERY_PROMPT, TEXTS, embedding_checkpoint, embedding_model, reranker
from tests.server.live import LiveServer, live_server
from tests.tiny_package import tiny_package

TOLERANCE = 1e-5
HI = [{"role": "user", "content": "Hi"}]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("embedding")
    return build_package(embedding_checkpoint(folder / "hf", embedding_model()), folder / "package", precision="f32")


@pytest.fixture(scope="module")
def live(package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("server")
    models = {"embed": package, "writer": tiny_package(folder / "tiny"), "judge": reranker(folder)[1]}
    with live_server(models) as server:
        yield server


@pytest.fixture(scope="module")
def llm(package: Path) -> Iterator[LLM]:
    with LLM(package, EngineConfig(device="cpu", kv_cache_bytes=8 << 20)) as llm:
        yield llm


def close(vectors: object, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(np.array(vectors), wanted, atol=TOLERANCE)


def test_openai_client(live: LiveServer, llm: LLM) -> None:
    """Its client asks for base64 unless it is told otherwise."""
    for extra in ({}, {"encoding_format": "float"}, {"encoding_format": "base64"}):
        told = live.openai.embeddings.create(model="embed", input=TEXTS, **extra)
        if extra != {"encoding_format": "base64"}:
            close([each.embedding for each in told.data], llm.embed(TEXTS))
        assert [each.index for each in told.data] == list(range(len(TEXTS)))
        assert told.model == "embed"
        assert told.usage.prompt_tokens == told.usage.total_tokens == sum(len(text.encode()) + 1 for text in TEXTS)
    close([live.openai.embeddings.create(model="embed", input="a").data[0].embedding], llm.embed("a"))
    few = live.openai.embeddings.create(model="embed", input=[[1, 2, 257], [3]], dimensions=8)
    close([each.embedding for each in few.data], llm.embed([[1, 2, 257], [3]], dimensions=8))
    one = live.openai.embeddings.create(model="embed", input=[1, 2, 257])
    close([each.embedding for each in one.data], llm.embed([[1, 2, 257]]))


def test_extensions(live: LiveServer, llm: LLM) -> None:
    told = live.http.post("/embeddings", json={"input": "rivers", "prompt_name": "query", "user": "me"}).json()
    close([told["data"][0]["embedding"]], llm.embed(QUERY_PROMPT + "rivers"))
    told = live.http.post("/v1/embeddings", json={"input": "x" * 900, "truncate": True})
    assert told.status_code == 200
    assert told.json()["usage"]["prompt_tokens"] == 512


def test_ollama(live: LiveServer, llm: LLM) -> None:
    told = live.http.post(
        "/api/embed", json={"model": "embed:latest", "input": TEXTS, "options": {"num_ctx": 9}}
    ).json()
    close(told["embeddings"], llm.embed(TEXTS))
    assert (told["model"], told["prompt_eval_count"]) == ("embed", sum(len(text.encode()) + 1 for text in TEXTS))
    assert told["total_duration"] > 0
    told = live.http.post("/api/embed", json={"model": "embed", "input": "x" * 900, "dimensions": 8}).json()
    close(told["embeddings"], llm.embed("x" * 900, dimensions=8, truncate=True))
    refused = live.http.post("/api/embed", json={"model": "embed", "input": "x" * 900, "truncate": False})
    assert refused.status_code == 400
    assert "maximum context length is 512" in refused.json()["error"]
    close(
        [live.http.post("/api/embeddings", json={"model": "embed", "prompt": "a"}).json()["embedding"]], llm.embed("a")
    )
    assert live.http.post("/api/embed", json={"model": "embed", "input": []}).json()["embeddings"] == []
    assert live.http.post("/api/embeddings", json={"model": "embed", "prompt": ""}).json() == {"embedding": []}
    refused = live.http.post("/api/embed", json={"model": "writer", "input": "a"})
    assert refused.status_code == 404
    assert "gives no embeddings" in refused.json()["error"]


def test_a_request_has_a_million_tokens_at_most(live: LiveServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.reading.MAX_TOKENS", 5)
    for path, field in (("/v1/embeddings", "input"), ("/embedding", "content"), ("/api/embed", "input")):
        assert live.http.post(path, json={"model": "embed", field: ["a", "ab"]}).status_code == 200
        answer = live.http.post(path, json={"model": "embed", field: ["a", "abc"]})
        assert answer.status_code == 400
        assert "all prompts together have more than 5 tokens" in answer.text


def test_llama_cpp(live: LiveServer, llm: LLM) -> None:
    for given in ({"content": TEXTS}, {"input": TEXTS, "embd_normalize": 2}):
        told = live.http.post("/embedding", json=given).json()
        close([each["embedding"][0] for each in told], llm.embed(TEXTS))
        assert [each["index"] for each in told] == list(range(len(TEXTS)))
    close(live.http.post("/embedding", json={"content": "a"}).json()[0]["embedding"], llm.embed("a"))
    close(live.http.post("/embedding", json={"content": [1, 2]}).json()[0]["embedding"], llm.embed([[1, 2]]))
    for wrong in ({}, {"content": "a", "input": "b"}, {"content": "a", "embd_normalize": 0}):
        assert live.http.post("/embedding", json=wrong).status_code == 400


def test_what_models_can_do(live: LiveServer) -> None:
    told = {model["id"]: model["capabilities"] for model in live.http.get("/v1/models").json()["data"]}
    assert told == {
        "embed": ["embedding"],
        "writer": ["completion", "tools"],
        "judge": ["completion", "tools", "rerank"],
    }
    shown = live.http.post("/api/show", json={"model": "embed"}).json()
    assert shown["capabilities"] == ["embedding"]


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        ({"input": []}, 400, "invalid_type", "input"),
        ({}, 400, "missing_required_parameter", "input"),
        ({"input": ["a"] * 2049}, 400, "invalid_value", "input"),
        ({"input": ["a", [1]]}, 400, None, "input[1]"),
        ({"input": [[]]}, 400, None, "input[0]"),
        ({"input": [[999]]}, 400, "invalid_value", "input"),
        ({"input": ["a", "x" * 900]}, 400, "context_length_exceeded", "input"),
        ({"input": "a", "dimensions": 0}, 400, "invalid_value", "dimensions"),
        ({"input": "a", "dimensions": 65}, 400, "invalid_value", "dimensions"),
        ({"input": "a", "prompt_name": "poem"}, 400, "invalid_value", "prompt_name"),
        ({"input": "a", "encoding_format": "int8"}, 400, "invalid_value", "encoding_format"),
        ({"input": "a", "model": "writer"}, 404, "unsupported_endpoint", "model"),
    ],
)
def test_what_is_refused(live: LiveServer, body: dict[str, object], status: int, code: str | None, param: str) -> None:
    answer = live.http.post("/v1/embeddings", json={"model": "embed", **body})
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (status, param), error
    assert code in (None, error["code"]), error


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/chat/completions", {"messages": HI}),
        ("/v1/chat/completions", {"messages": HI, "stream": True}),
        ("/v1/completions", {"prompt": "a"}),
        ("/v1/responses", {"input": "a"}),
        ("/v1/messages", {"messages": HI, "max_tokens": 3}),
        ("/v1/rerank", {"query": "a", "documents": ["b"]}),
        ("/completion", {"prompt": "a"}),
        ("/api/chat", {"messages": HI}),
    ],
)
def test_an_embedding_model_writes_nothing(live: LiveServer, path: str, body: dict[str, object]) -> None:
    answer = live.http.post(path, json={"model": "embed", **body})
    assert answer.status_code == 404
    assert "has no head to write with" in answer.text


def test_a_client_that_hangs_up_frees_the_rows(live: LiveServer) -> None:
    with pytest.raises(httpx.ReadTimeout):
        live.http.post(
            "/v1/embeddings", json={"model": "embed", "input": [f"{n} " * 80 for n in range(2000)]}, timeout=0.3
        )
    for _ in range(1000):
        status = live.http.get("/v1/status").json()
        if not status["running"] and not status["waiting"]:
            break
    else:
        pytest.fail(f"still at it: {status}")
    with pytest.raises(openai.NotFoundError):
        live.openai.embeddings.create(model="writer", input="a")
