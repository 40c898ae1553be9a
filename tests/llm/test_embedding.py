"""Embeddings against transformers' hidden states in float32, however the texts are run and wherever the weights lay."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from genai.build.package import build_package
from genai.config import EngineConfig, ModelConfig
from genai.errors import ConfigError, DeadlineError, TaskError, TextTooLongError
from genai.llm.async_llm import AsyncLLM
from genai.llm.llm import LLM
from tests.families import gguf_writer
from tests.llm.reading_models import (
    QUERY_PROMPT,
    TEXTS,
    embedding_checkpoint,
    embedding_model,
    hidden_states,
    normalized,
)
from tests.tiny_package import tiny_package

CONFIG = EngineConfig(device="cpu", num_threads=1, max_batch=4, kv_cache_bytes=8 << 20, prefix_cache_bytes=4 << 20)
TOLERANCE = 1e-4  # relative to the largest number; measured: 8e-7
TOKENS = [[*text.encode(), 257] for text in TEXTS]


@pytest.fixture(scope="module")
def model() -> Any:
    return embedding_model()


@pytest.fixture(scope="module")
def checkpoint(model: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedding_checkpoint(tmp_path_factory.mktemp("embedding") / "hf", model)


@pytest.fixture(scope="module")
def package(checkpoint: Path) -> Path:
    return build_package(checkpoint, checkpoint.parent / "package", precision="f32")


@pytest.fixture(scope="module")
def llm(package: Path) -> Iterator[LLM]:
    with LLM(package, CONFIG) as llm:
        yield llm


@pytest.fixture(autouse=True)
def nothing_is_left(llm: LLM) -> Iterator[None]:
    yield
    llm.loop.settle()
    assert not llm.engine.has_work
    assert llm._runner.cache.rows == ()


@pytest.fixture(scope="module")
def expected(model: Any) -> np.ndarray:
    return normalized(np.array([hidden_states(model, tokens)[-1] for tokens in TOKENS]))


def assert_close(vectors: np.ndarray, wanted: np.ndarray, tolerance: float = TOLERANCE) -> None:
    assert vectors.dtype == np.float32
    assert vectors.shape == wanted.shape
    np.testing.assert_allclose(vectors, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())


def test_embeddings_are_transformers(llm: LLM, expected: np.ndarray) -> None:
    assert_close(llm.embed(TEXTS), expected)
    assert_close(llm.embed(TOKENS), expected)
    assert_close(llm.embed(TEXTS[1]), expected[1:2])
    assert_close(np.concatenate([llm.embed([text]) for text in TEXTS]), expected)


@pytest.mark.parametrize("options", [{"prefill_chunk": 7}, {"max_batch": 1}, {"max_batch": 8, "prefill_chunk": 64}])
def test_in_pieces_and_in_batches(package: Path, expected: np.ndarray, options: dict[str, int]) -> None:
    config = EngineConfig(
        **{"device": "cpu", "num_threads": 1, "kv_cache_bytes": 4 << 20, "prefix_cache_bytes": 0, **options}  # type: ignore[arg-type]
    )
    with LLM(package, config) as other:
        assert_close(other.embed(TEXTS * 3), np.tile(expected, (3, 1)))


def test_what_is_known_changes_nothing(llm: LLM, model: Any) -> None:
    """Long texts that begin alike, whose keys and values are found the second time."""
    texts = [TEXTS[3] + ending for ending in ("", "x", " and more")]
    wanted = normalized(np.array([hidden_states(model, [*text.encode(), 257])[-1] for text in texts]))
    for _ in range(2):
        assert_close(llm.embed(texts), wanted)


@pytest.mark.parametrize(("number", "pooling"), [(1, "mean"), (2, "first"), (3, "last")])
def test_from_gguf(model: Any, expected: np.ndarray, tmp_path: Path, number: int, pooling: str) -> None:
    """llama.cpp's numbers of poolings; its embeddings are normalised."""

    def change(writer: Any) -> None:
        gguf_writer.write_vocabulary(writer, model.config.vocab_size)
        writer.add_uint32("qwen3.pooling_type", number)

    tensors = {f"model.{name}": tensor.numpy() for name, tensor in model.model.state_dict().items()}
    file = gguf_writer.write(gguf_writer.GgufForm(arch="qwen3"), tensors, model.config, tmp_path / "m.gguf", change)
    package = build_package(file, tmp_path / "package", precision="f32")
    config = ModelConfig.read(package).embedding
    assert config is not None
    assert (config.pooling, config.is_normalized) == (pooling, True)
    states = [hidden_states(model, tokens) for tokens in TOKENS]
    by_pooling = {
        "last": expected,
        "first": normalized(np.array([each[0] for each in states])),
        "mean": normalized(np.array([each.mean(axis=0) for each in states])),
    }
    with LLM(package, CONFIG) as other:
        assert_close(other.embed(TOKENS), by_pooling[pooling])


@pytest.mark.parametrize("chunk", [512, 7])
def test_a_mean_that_is_not_normalised(model: Any, tmp_path: Path, chunk: int) -> None:
    folder = embedding_checkpoint(tmp_path / "hf", model, ("Transformer", "Pooling"), pooling_mode_mean_tokens=True)
    package = build_package(folder, tmp_path / "package", precision="f32")
    wanted = np.array([hidden_states(model, tokens).mean(axis=0) for tokens in TOKENS])
    config = EngineConfig(device="cpu", num_threads=1, max_batch=4, kv_cache_bytes=4 << 20, prefill_chunk=chunk)
    with LLM(package, config) as other:
        for _ in range(2):  # what the first round leaves in the prefix cache has to be run all the same
            assert_close(other.embed(TEXTS), wanted)
        assert_close(other.embed(TEXTS, dimensions=16), wanted[:, :16])


def test_a_head_that_is_there_is_left_out(model: Any, expected: np.ndarray, tmp_path: Path) -> None:
    """A checkpoint of the whole model, names and all, whose modules say what it is for."""
    from tests.llm import reading_models

    folder = reading_models.checkpoint(tmp_path / "hf", embedding_model(tie_word_embeddings=False))
    reading_models.write_modules(folder)
    package = build_package(folder, tmp_path / "package", precision="f32")
    with LLM(package, CONFIG) as other:
        assert other.embed(TOKENS).shape == expected.shape
    assert (package / "model.onnx.data").stat().st_size < (folder / "model.safetensors").stat().st_size


@pytest.mark.parametrize(("precision", "least"), [("int8", 0.995), ("f16", 0.9999)])
def test_rounded_weights(checkpoint: Path, expected: np.ndarray, tmp_path: Path, precision: Any, least: float) -> None:
    """The least cosine to float32; measured on this random model of 64: 0.9982 (int8) and 0.99999 (f16)."""
    package = build_package(checkpoint, tmp_path / "package", precision=precision)
    with LLM(package, CONFIG) as other:
        vectors = other.embed(TEXTS)
    assert ((vectors * expected).sum(axis=1) > least).all()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)


def test_fewer_dimensions(llm: LLM, expected: np.ndarray) -> None:
    assert_close(llm.embed(TEXTS, dimensions=16), normalized(expected[:, :16]))
    assert_close(llm.embed(TEXTS, dimensions=64), expected)
    for wrong in (0, 65, True, "16"):
        with pytest.raises(ConfigError, match="must be from 1 to 64"):
            llm.embed(TEXTS, dimensions=wrong)  # type: ignore[arg-type]


def test_dimensions_that_a_model_lists(model: Any, tmp_path: Path) -> None:
    folder = embedding_checkpoint(tmp_path / "hf", model)
    config = folder / "config.json"
    config.write_text(config.read_text().replace("{", '{"matryoshka_dimensions": [16, 32],', 1))
    with LLM(build_package(folder, tmp_path / "package", precision="f32"), CONFIG) as other:
        assert [other.embed("a", dimensions=size).shape[1] for size in (16, 32, 64)] == [16, 32, 64]
        with pytest.raises(ConfigError, match="dimensions=20: this model's embeddings may be cut to 16, 32"):
            other.embed("a", dimensions=20)


def test_prompts(llm: LLM) -> None:
    by_name = llm.embed(["rivers"], prompt_name="query")
    np.testing.assert_allclose(by_name, llm.embed([QUERY_PROMPT + "rivers"]), atol=1e-5)
    np.testing.assert_allclose(by_name, llm.embed(["rivers"], prompt=QUERY_PROMPT), atol=1e-5)
    np.testing.assert_allclose(llm.embed(["rivers"], prompt_name="document"), llm.embed(["rivers"]), atol=1e-5)
    assert np.abs(by_name - llm.embed(["rivers"])).max() > 1e-2
    with pytest.raises(ConfigError, match="prompt_name='poem': this model's prompts are query, document"):
        llm.embed(["a"], prompt_name="poem")
    with pytest.raises(ConfigError, match="one of them stands in front"):
        llm.embed(["a"], prompt_name="query", prompt="x")
    with pytest.raises(ConfigError, match="prompt_name goes with strings, not with token ids"):
        llm.embed([[1, 2]], prompt_name="query")


def test_texts_that_are_too_long(llm: LLM, model: Any) -> None:
    fits, longer = "x" * 511, "x" * 512
    wanted = normalized(hidden_states(model, [*fits.encode(), 257])[-1:])
    assert_close(llm.embed(fits), wanted)
    with pytest.raises(TextTooLongError, match=r"maximum context length is 512 tokens.*texts\[1\] has 513 tokens"):
        llm.embed(["a", longer])
    with pytest.raises(TextTooLongError, match=r"texts\[0\] has at least"):
        llm.embed("x" * 600_000)
    for text in (longer, "x" * 600_000):
        assert_close(llm.embed(text, truncate=True), wanted)
    tokens = [*longer.encode()]
    assert_close(llm.embed([tokens], truncate=True), normalized(hidden_states(model, tokens)[-1:]))
    assert_close(llm.embed([[*tokens, 1]], truncate=True), normalized(hidden_states(model, tokens)[-1:]))


def test_what_is_no_text(llm: LLM) -> None:
    for texts in ([], b"a", None, 3):
        with pytest.raises(ConfigError, match="texts are a string, a list of strings"):
            llm.embed(texts)  # type: ignore[arg-type]
    for texts in (["a", [1]], [[1], "a"], [1, 2], ["a", None]):
        with pytest.raises(ConfigError, match=r"texts\[[01]\] is "):
            llm.embed(texts)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"texts\[1\] has no tokens"):
        llm.embed([[1], []])
    with pytest.raises(ConfigError, match="token id 999 is outside the vocabulary"):
        llm.embed([[1, 999]])
    with pytest.raises(DeadlineError):
        llm.embed(TEXTS, timeout=0)


def test_from_coroutines_and_given_up(llm: LLM, expected: np.ndarray) -> None:
    async def many() -> None:
        served = AsyncLLM(llm)
        both = await asyncio.gather(served.embed(TEXTS), served.embed(TOKENS[:2], dimensions=16))
        assert_close(both[0], expected)
        assert_close(both[1], normalized(expected[:2, :16]))
        task = asyncio.ensure_future(served.embed([f"text {number}" for number in range(500)]))
        while not llm.engine.running:
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        served.close()

    asyncio.run(many())


def test_each_does_its_own_task(llm: LLM, tmp_path: Path) -> None:
    for call in (
        lambda: llm.generate("a"),
        lambda: llm.stream("a"),
        llm.generator,
        lambda: llm.logits([1]),
        lambda: llm.score("a", ["b"]),
    ):
        with pytest.raises(TaskError, match="makes embeddings and has no head to write with"):
            call()
    llm.warm_up()
    with LLM(tiny_package(tmp_path / "tiny"), CONFIG) as writer:
        with pytest.raises(TaskError, match="writes text and gives no embeddings"):
            writer.embed("a")
        with pytest.raises(TaskError, match="no head"):
            writer.generate("a", draft=llm)
