"""Embeddings and scores of a model with adapters: PEFT's in float32, side by side with the base's."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai.batch.file import BatchFile, Settings
from genai.build.package import build_package
from genai.cli import options
from genai.cli.main import exit_code
from genai.errors import ConfigError
from genai.llm.async_llm import AsyncLLM
from genai.llm.llm import LLM
from tests.build import tiny
from tests.build.adapters import published
from tests.llm.reading_models import (
    TEXTS,
    WORDS,
    checkpoint,
    embedding_checkpoint,
    embedding_model,
    hidden_states,
    last_logits,
    normalized,
)
from tests.server.live import live_server

pytest.importorskip("peft")

ROOM: dict[str, Any] = {"precision": "f32", "lora_slots": 2, "max_rank": 4}
TOKENS = [[*text.encode(), 257] for text in TEXTS]
QUERY, DOCUMENTS = "capital of France?", ["Paris is the capital.", "Lyon is a city.", "x"]


class Embedding:
    """A tiny embedding model, an adapter that was trained without a head, and both models' embeddings."""

    def __init__(self, folder: Path) -> None:
        model = embedding_model()
        source = embedding_checkpoint(folder / "hf", model)
        self.base = normalized(np.array([hidden_states(model, tokens)[-1] for tokens in TOKENS]))
        self.package = build_package(source, folder / "package", **ROOM)
        wrapped = published.adapted(model.model, seed=1, task_type=None)
        self.path = published.save(wrapped, folder / "adapter")
        model.model = wrapped
        self.adapted = normalized(np.array([hidden_states(model, tokens)[-1] for tokens in TOKENS]))
        assert np.abs(self.adapted - self.base).max() > 0.1


@pytest.fixture(scope="module")
def embedding(tmp_path_factory: pytest.TempPathFactory) -> Embedding:
    return Embedding(tmp_path_factory.mktemp("embedding"))


@pytest.fixture
def llm(embedding: Embedding) -> Iterator[LLM]:
    with tiny.loaded(embedding.package, max_batch=4) as llm:
        llm.load_adapter("mine", embedding.path)
        yield llm


def close(vectors: object, wanted: np.ndarray) -> None:
    np.testing.assert_allclose(np.asarray(vectors), wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


def test_embeddings_are_pefts(llm: LLM, embedding: Embedding) -> None:
    for _ in range(2):  # the second time what prompts begin with is known
        close(llm.embed(TEXTS, adapter="mine"), embedding.adapted)
        close(llm.embed(TEXTS), embedding.base)
    with pytest.raises(ConfigError, match="'other': no such adapter is loaded; loaded: 'mine'"):
        llm.embed(TEXTS, adapter="other")


def test_coroutines_embed_with_both_at_once(llm: LLM, embedding: Embedding) -> None:
    async def both() -> list[np.ndarray]:
        model = AsyncLLM(llm)
        found = await asyncio.gather(model.embed(TEXTS, adapter="mine"), model.embed(TEXTS))
        model.close()
        return found

    adapted, base = asyncio.run(both())
    close(adapted, embedding.adapted)
    close(base, embedding.base)


def test_lines_of_a_batch_name_it(llm: LLM, embedding: Embedding, tmp_path: Path) -> None:
    source, target = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    names = ["base", "mine", "other"]
    lines = [
        {"custom_id": name, "method": "POST", "url": "/v1/embeddings", "body": {"model": name, "input": TEXTS}}
        for name in names
    ]
    source.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with BatchFile(source, target) as batch:
        with pytest.raises(ConfigError, match="'mine' is called as the model is"):
            batch.run(llm, ("mine",), Settings())
        assert batch.run(llm, ("base",), Settings()).failed == 1
    answers = {each["custom_id"]: each["response"]["body"] for each in map(json.loads, target.read_text().splitlines())}
    for name, wanted in (("base", embedding.base), ("mine", embedding.adapted)):
        assert answers[name]["model"] == name
        close([each["embedding"] for each in answers[name]["data"]], wanted)
    assert "answered by 'base', or 'mine'; leave the field out" in answers["other"]["error"]["message"]


def test_the_command_line_embeds_with_it(embedding: Embedding, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["embed", str(embedding.package), TEXTS[0], "--device", "cpu", "--adapter", f"mine={embedding.path}"]
    assert exit_code(command) == 0
    close(json.loads(capsys.readouterr().out), embedding.adapted[0])
    with pytest.raises(ConfigError, match="--adapter mine=…: the name is given twice"):
        options.adapters_of(["mine=a", "other=b", "mine=c"])


def test_the_server_embeds_with_it(embedding: Embedding) -> None:
    served = {"source": str(embedding.package), "adapters": {"mine": str(embedding.path)}}
    with live_server({"base": served}) as live:
        for name, wanted in (("base", embedding.base), ("mine", embedding.adapted)):
            reply = live.openai.embeddings.create(model=name, input=TEXTS, encoding_format="float")
            assert reply.model == name
            close([each.embedding for each in reply.data], wanted)
        ollama = live.http.post("/api/embed", json={"model": "mine:latest", "input": TEXTS}).json()
        assert ollama["model"] == "mine"
        close(ollama["embeddings"], embedding.adapted)


def test_scores_are_pefts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny.make_model("qwen3", head_dim=16, max_position_embeddings=1024)
    package = build_package(checkpoint(tmp_path / "hf", model), tmp_path / "package", **ROOM)
    wrapped = published.adapted(model, seed=1)
    path = published.save(wrapped, tmp_path / "adapter")
    with tiny.loaded(package, max_batch=4, max_seq_len=1024) as llm:
        llm.load_adapter("mine", path)
        asked = [list(each.request.prompt) for each in llm.scorer.ask(QUERY, DOCUMENTS).requests]
        wanted = {name: _scores(each, asked) for name, each in {"": model, "mine": wrapped}.items()}
        assert np.abs(wanted["mine"] - wanted[""]).max() > 0.01
        for name in ("mine", "", "mine"):
            close(llm.score(QUERY, DOCUMENTS, adapter=name or None), wanted[name])
    command = ["score", str(package), QUERY, *DOCUMENTS, "--json", "--device", "cpu", "--adapter", f"mine={path}"]
    assert exit_code(command) == 0
    close(json.loads(capsys.readouterr().out)["scores"], wanted["mine"])
    with live_server({"base": {"source": str(package), "adapters": {"mine": str(path)}}}) as live:
        body = {"model": "mine", "query": QUERY, "documents": DOCUMENTS}
        reply = live.http.post("/v1/rerank", json=body).json()
    assert reply["model"] == "mine"
    scores = {each["index"]: each["relevance_score"] for each in reply["results"]}
    close([scores[index] for index in range(len(DOCUMENTS))], wanted["mine"])


def _scores(model: Any, prompts: list[list[int]]) -> np.ndarray:
    """The share of "yes" in both words' probability."""
    yes, no = (256 + 2 + WORDS.index(word) for word in WORDS)
    logits = np.array([last_logits(model, prompt)[[yes, no]] for prompt in prompts])
    return np.asarray(1 / (1 + np.exp(logits[:, 1] - logits[:, 0])))
