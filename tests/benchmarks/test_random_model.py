"""Random models are read as what they are named after, and their blocks are numbers of a sensible size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import quantized, random_model
from benchmarks.environments import PeerUnavailableError
from benchmarks.random_model import SHAPES, Delta, main, stored_type, tensors, write_model
from genai.build.gguf.source import GgufSource
from genai.build.package import build_package
from tests.build import tiny

TINY = {"num_layers": 3, "hidden_size": 256, "intermediate_size": 512, "num_heads": 4, "num_kv_heads": 2}
TOKENS = ["a", "b", "ab", "<end>"]
METADATA = {
    "tokenizer.ggml.model": "gpt2",
    "tokenizer.ggml.pre": "smollm",
    "tokenizer.ggml.tokens": TOKENS,
    "tokenizer.ggml.token_type": np.array([1, 1, 1, 3]),
    "tokenizer.ggml.merges": ["a b"],
    "tokenizer.ggml.bos_token_id": 3,
    "tokenizer.ggml.eos_token_id": 3,
}


@pytest.fixture(autouse=True)
def tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    class File(SimpleNamespace):
        def __enter__(self) -> File:
            return self

        def __exit__(self, *_: object) -> None:
            pass

    monkeypatch.setattr(random_model.models, "pull", Path)
    monkeypatch.setattr(random_model, "GgufFile", lambda path: File(metadata=METADATA))


@pytest.mark.parametrize(("name", "form"), [("llama-3.1-8b", "blocks"), ("qwen3-1.7b", "F16")])
def test_a_random_model_is_read_as_what_it_is_named_after(tmp_path: Path, name: str, form: str) -> None:
    shape = replace(SHAPES[name], **TINY, head_dim=64, vocab_size=300)
    with GgufSource(write_model(shape, tmp_path / "m.gguf", form)) as source:
        assert source.config["model_type"] == name.split("-", maxsplit=1)[0]
        assert len(source.metadata["tokenizer.ggml.tokens"]) == 300
        assert source.config["tie_word_embeddings"] == shape.is_head_tied
        for layer in range(3):
            for part, columns in (("self_attn.q_proj", 256), ("mlp.down_proj", 512)):
                weight = source.read(f"model.layers.{layer}.{part}.weight")
                assert np.std(weight) * columns**0.5 == pytest.approx(1, rel=0.05)
                assert abs(np.mean(weight)) < 0.05 * np.std(weight)
    assert [path.name for path in tmp_path.iterdir()] == ["m.gguf"]


@pytest.mark.parametrize("form", ["F16", "Q8_0"])
def test_a_random_hybrid_runs(tmp_path: Path, form: str) -> None:
    """Its recurrences forget as those of models do: states neither vanish at once nor stay for ever."""
    delta = Delta(interval=3, num_key_heads=2, num_value_heads=4, head_dim=32, kernel=4)
    shape = replace(SHAPES["qwen3.5-0.8b"], **TINY, head_dim=64, vocab_size=300, delta=delta)
    path = write_model(shape, tmp_path / "m.gguf", form)
    with GgufSource(path) as source:
        assert source.config["layer_types"] == ["linear_attention", "linear_attention", "full_attention"]
        assert source.config["tie_word_embeddings"] is True
        assert (source.read_blocks("model.layers.0.linear_attn.out_proj.weight") is None) == (form == "F16")
        assert source.read_blocks("model.layers.0.linear_attn.conv1d.weight") is None
        rates, times = (source.read(f"model.layers.0.linear_attn.{name}") for name in ("A", "dt_bias"))
    remembered = np.exp(rates * np.log1p(np.exp(times)))
    assert ((remembered > 0.15) & (remembered < 1)).all()
    package = build_package(path, tmp_path / "package", precision="auto")
    prompt = [*range(3, 20)]
    logits = tiny.Graph(package).add(prompt)[0]
    assert np.isfinite(logits).all()
    assert logits.std() > 0.1


def test_published_sizes_have_their_number_of_weights() -> None:
    billions = {name: sum(np.prod(size) for _, size in tensors(shape)) / 1e9 for name, shape in SHAPES.items()}
    assert {name: round(float(count), 2) for name, count in billions.items()} == {
        "llama-3.2-1b": 1.24,
        "qwen3-1.7b": 1.72,
        "qwen3-4b": 4.02,
        "qwen3.5-0.8b": 0.75,
        "llama-3.1-8b": 8.03,
    }


def test_half_of_what_matters_gets_six_bits() -> None:
    shape = SHAPES["llama-3.1-8b"]
    six = [name for name, size in tensors(shape) if stored_type(shape, name, size, "blocks").name == "Q6_K"]
    assert "output.weight" in six
    assert "token_embd.weight" not in six
    assert sum("ffn_down" in name for name in six) == sum("attn_v" in name for name in six) == 16


def test_a_form_of_llama_cpp_is_asked_of_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def install(peer: str) -> None:
        raise PeerUnavailableError("cannot be installed: no such package")

    monkeypatch.setattr(quantized.environments, "install", install)
    monkeypatch.setitem(SHAPES, "tiny", replace(SHAPES["llama-3.2-1b"], **TINY, head_dim=64, vocab_size=4))
    with pytest.raises(PeerUnavailableError, match="no such package"):
        main(["tiny", str(tmp_path / "m.gguf"), "--form", "Q4_K_M"])
    assert not list(tmp_path.iterdir())
