"""What sentence-transformers' files and GGUF metadata say of embeddings, and what of it is not built."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from genai.build.embedding import embedding_files, embedding_of_folder, embedding_of_gguf
from genai.build.open import source_digest
from genai.config import EmbeddingConfig
from genai.errors import UnsupportedModelError, WeightsError
from tests.llm.reading_models import QUERY_PROMPT, write_modules

PROMPTS = {"query": QUERY_PROMPT, "document": ""}


def test_modules_in_older_and_newer_words(tmp_path: Path) -> None:
    told = EmbeddingConfig(pooling="last", is_normalized=True, prompts=PROMPTS)
    assert embedding_of_folder(write_modules(tmp_path), {}) == told
    assert embedding_of_folder(write_modules(tmp_path, pooling_mode="lasttoken"), {}) == told
    assert embedding_of_folder(write_modules(tmp_path, pooling_mode=["lasttoken"], include_prompt=False), {}) == told
    flags = {"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True, "pooling_mode_max_tokens": False}
    mean = embedding_of_folder(write_modules(tmp_path, ("Transformer", "Pooling"), **flags), {})
    assert mean == EmbeddingConfig(pooling="mean", is_normalized=False, prompts=PROMPTS)
    first = embedding_of_folder(write_modules(tmp_path, pooling_mode_cls_token=True), {})
    assert first is not None
    assert first.pooling == "first"


def test_lengths_dimensions_and_prompts(tmp_path: Path) -> None:
    write_modules(tmp_path)
    (tmp_path / "sentence_bert_config.json").write_text('{"max_seq_length": 128, "do_lower_case": false}')
    prompts = {"prompts": PROMPTS, "default_prompt_name": "query"}
    (tmp_path / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    config = embedding_of_folder(tmp_path, {"matryoshka_dimensions": [64, 32]})
    assert config is not None
    assert (config.max_tokens, config.dimensions, config.default_prompt) == (128, (32, 64), "query")


def test_folders_that_are_no_embedding_models(tmp_path: Path) -> None:
    assert embedding_of_folder(tmp_path, {}) is None
    assert embedding_files(tmp_path) == []
    write_modules(tmp_path, ("Transformer", "LogitScore"))
    assert embedding_of_folder(tmp_path, {}) is None, "a reranker writes its answer"


@pytest.mark.parametrize(
    ("modules", "pooling", "message"),
    [
        (
            ("Transformer", "Pooling", "Dense", "Normalize"),
            {},
            "has the modules Transformer, Pooling, Dense, Normalize",
        ),
        (("WordEmbeddings", "Pooling"), {}, "built are Transformer, Pooling and Normalize"),
        (("Transformer", "Pooling"), {"pooling_mode_max_tokens": True}, "pooling by max is not supported"),
        (
            ("Transformer", "Pooling"),
            {"pooling_mode_mean_tokens": True, "pooling_mode_lasttoken": True},
            "pooling by mean, lasttoken is not supported; supported: lasttoken, mean, cls",
        ),
        (("Transformer", "Pooling"), {"include_prompt": True}, "pooling by nothing"),
        (
            ("Transformer", "Pooling"),
            {"pooling_mode_mean_tokens": True, "include_prompt": False},
            "a mean without the prompt",
        ),
    ],
)
def test_what_is_not_built(tmp_path: Path, modules: tuple[str, ...], pooling: dict[str, object], message: str) -> None:
    with pytest.raises(UnsupportedModelError, match=message):
        embedding_of_folder(write_modules(tmp_path, modules, **pooling), {})


def test_other_files_that_ask_for_what_is_not_built(tmp_path: Path) -> None:
    write_modules(tmp_path)
    (tmp_path / "sentence_bert_config.json").write_text('{"do_lower_case": true}')
    with pytest.raises(UnsupportedModelError, match="do_lower_case"):
        embedding_of_folder(tmp_path, {})
    entries = json.loads((tmp_path / "modules.json").read_text())
    entries[0]["path"] = "0_Transformer"
    (tmp_path / "modules.json").write_text(json.dumps(entries))
    with pytest.raises(UnsupportedModelError, match="lies in '0_Transformer'"):
        embedding_of_folder(tmp_path, {})


@pytest.mark.parametrize("text", ["{}", "[3]", '[{"type": "a.Transformer", "path": "../x"}]', "[{}]", "nothing"])
def test_damaged_modules(tmp_path: Path, text: str) -> None:
    (tmp_path / "modules.json").write_text(text)
    with pytest.raises(WeightsError, match="damaged"):
        embedding_of_folder(tmp_path, {})


def test_gguf(tmp_path: Path) -> None:
    for kind, pooling in ((1, "mean"), (2, "first"), (3, "last")):
        told = embedding_of_gguf({"general.architecture": "qwen3", "qwen3.pooling_type": kind}, tmp_path)
        assert told == EmbeddingConfig(pooling=pooling, is_normalized=True)  # type: ignore[arg-type]
    for kind in (None, 0, 4):
        metadata = {"general.architecture": "qwen3", "qwen3.pooling_type": kind, "bert.pooling_type": 1}
        assert embedding_of_gguf(metadata, tmp_path) is None
    for unknown in (5, ["a"], np.array([1, 2])):
        with pytest.raises(UnsupportedModelError, match=r"pooling_type .* is not known"):
            embedding_of_gguf({"general.architecture": "qwen3", "qwen3.pooling_type": unknown}, tmp_path)


def test_a_change_of_the_modules_is_another_source(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"x")
    digests = [source_digest(tmp_path), source_digest(write_modules(tmp_path))]
    digests.append(source_digest(write_modules(tmp_path, pooling_mode="mean")))
    assert len(set(digests)) == 3
