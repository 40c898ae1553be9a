"""`genai embed`, and batch files whose lines have texts embedded."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from genai.build.package import build_package
from genai.config import EngineConfig
from genai.llm.llm import LLM
from tests.cli.conftest import FakeLLM, Genai
from tests.cli.test_generate_file import answered, chat, line
from tests.llm.reading_models import QUERY_PROMPT, TEXTS, embedding_checkpoint, embedding_model

VECTORS = np.array([[0.25, -0.5], [1, 0]], np.float32)
URL = "/v1/embeddings"


@pytest.fixture
def embedded(llm: FakeLLM, monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """What the model was asked."""
    calls: list[tuple[object, ...]] = []

    def embed(texts: list[str], **options: object) -> np.ndarray:
        calls.append((texts, {name: value for name, value in options.items() if value}))
        return VECTORS[: len(texts)]

    monkeypatch.setattr(type(llm), "embed", staticmethod(embed), raising=False)
    return calls


def test_a_line_for_each_text(run_genai: Genai, llm: FakeLLM, embedded: list[tuple[object, ...]]) -> None:
    outcome = run_genai("embed", "m", "one", "two", "--dimensions", 2, "--prompt-name", "query", "--truncate")
    assert (outcome.code, outcome.out) == (0, "[0.25, -0.5]\n[1.0, 0.0]\n")
    assert embedded == [(["one", "two"], {"dimensions": 2, "prompt_name": "query", "truncate": True})]
    assert llm.is_closed


def test_an_array_from_standard_input(run_genai: Genai, embedded: list[tuple[object, ...]], tmp_path: Path) -> None:
    file = tmp_path / "out.npy"
    outcome = run_genai("embed", "m", "-o", file, "--prompt", "Q: ", stdin="Grüße\n\ntwo\n".encode())
    assert (outcome.code, outcome.out) == (0, f"{file}\n")
    np.testing.assert_array_equal(np.load(file), VECTORS)
    assert embedded == [(["Grüße", "two"], {"prompt": "Q: "})]


def test_where_nothing_can_be_written(run_genai: Genai, embedded: list[tuple[object, ...]], tmp_path: Path) -> None:
    wrong = run_genai("embed", "m", "a", "-o", tmp_path / "out.json")
    assert (wrong.code, embedded) == (2, [])
    assert "must be called *.npy" in wrong.err
    assert "cannot be written" in run_genai("embed", "m", "a", "-o", tmp_path / "none" / "out.npy").err


@pytest.fixture(scope="module")
def embedder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    folder = tmp_path_factory.mktemp("embedding")
    package = build_package(embedding_checkpoint(folder / "hf", embedding_model()), folder / "package", precision="f32")
    with LLM(package, EngineConfig(device="cpu", num_threads=1, max_batch=4, kv_cache_bytes=4 << 20)) as llm:
        yield llm


def test_batch_files(embedder: LLM, tmp_path: Path) -> None:
    """Lines with one text, with several, and those that cannot be answered."""
    lines: list[object] = [line(f"text {n}", URL, {"input": text}) for n, text in enumerate(TEXTS)]
    lines += [
        line("all", URL, {"input": TEXTS, "dimensions": 8, "encoding_format": "base64"}),
        line("query", URL, {"input": "rivers", "prompt_name": "query"}),
        line("long", URL, {"input": "x" * 900}),
        line("wrong", URL, {"input": 3}),
        line("unknown", URL, {"input": "a", "colour": 1}),
        chat("text"),
    ]
    records, summary = answered(embedder, tmp_path, lines)
    bodies = {record["custom_id"]: record["response"]["body"] for record in records}
    statuses = [record["response"]["status_code"] for record in records]
    assert statuses == [200] * (len(TEXTS) + 2) + [400] * 4
    told = [bodies[f"text {n}"]["data"][0]["embedding"] for n in range(len(TEXTS))]
    np.testing.assert_allclose(told, embedder.embed(TEXTS), atol=1e-5)
    packed = [np.frombuffer(base64.b64decode(each["embedding"]), "<f4") for each in bodies["all"]["data"]]
    np.testing.assert_allclose(packed, embedder.embed(TEXTS, dimensions=8), atol=1e-5)
    query = bodies["query"]["data"][0]["embedding"]
    np.testing.assert_allclose([query], embedder.embed([QUERY_PROMPT + "rivers"]), atol=1e-5)
    errors = [bodies[name]["error"]["message"] for name in ("long", "wrong", "unknown", "text")]
    for message, wanted in zip(errors, ("context length", "input=3", "colour", "no head to write with"), strict=True):
        assert wanted in message
    num_tokens = sum(len(text.encode()) + 1 for text in TEXTS)
    assert (summary.answered, summary.failed, summary.completion_tokens) == (len(lines), 4, 0)
    assert summary.prompt_tokens == 2 * num_tokens + len((QUERY_PROMPT + "rivers").encode()) + 1
    assert json.dumps(bodies["all"]["usage"]) == json.dumps({"prompt_tokens": num_tokens, "total_tokens": num_tokens})
