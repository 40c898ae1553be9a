"""Configuration: flat options, aliases, limits, and what is refused."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from genai.config import EmbeddingConfig, EngineConfig, ModelConfig, Provenance
from genai.errors import ConfigError, ContractError
from genai.options.generation_config import GenerationConfig, SamplingConfig, XtcConfig, replaced


def test_flat_options_reach_their_place() -> None:
    config = GenerationConfig().updated(max_new_tokens=5, temperature=0.7, seed=3, stop="END", stop_token_ids=[1, 2])
    assert config.max_new_tokens == 5
    assert config.stop_strings == ("END",)
    assert config.stop_token_ids == (1, 2)
    assert config.sampling_config == SamplingConfig(do_sample=True, temperature=0.7, rng_seed=3)


def test_sampling_is_switched_on_by_its_options_and_off_by_temperature_zero() -> None:
    assert GenerationConfig().updated(top_p=0.5).sampling_config.do_sample
    assert not GenerationConfig().updated(top_p=0.5, do_sample=False).sampling_config.do_sample
    assert not GenerationConfig().updated(temperature=0).sampling_config.do_sample
    assert not GenerationConfig().updated(repetition_penalty=1.1).sampling_config.do_sample
    assert not GenerationConfig().updated(max_new_tokens=3).sampling_config.do_sample
    assert not GenerationConfig().updated(sampling_config=SamplingConfig(top_k=3)).sampling_config.do_sample
    assert GenerationConfig().updated(xtc=XtcConfig(probability=0.5)).sampling_config.do_sample


def test_none_means_the_default() -> None:
    config = GenerationConfig().updated(top_k=None, top_p=None, stop_strings=None, seed=None)
    assert config.sampling_config.top_k == 0
    assert config.stop_strings == ()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperatur": 1}, "unknown generation option 'temperatur'; allowed: .*temperature"),
        ({"temperature": -1}, "temperature=-1: must be above 0"),
        ({"temperature": float("nan")}, "temperature=nan"),
        ({"temperature": "hot"}, "temperature=.hot.: must be a number"),
        ({"top_k": -2}, "top_k=-2: must be at least 0"),
        ({"top_p": -0.1}, "top_p=-0.1: must be above 0"),
        ({"top_p": 1.5}, "top_p=1.5"),
        ({"min_p": 2}, "min_p=2"),
        ({"repetition_penalty": -1}, "repetition_penalty=-1"),
        ({"rng_seed": -2}, "rng_seed=-2"),
        ({"max_new_tokens": -2}, "max_new_tokens=-2: must be at least 0"),
        ({"stop_strings": [""]}, "non-empty"),
        ({"stop_strings": [3]}, "non-empty"),
        ({"sampling_config": 3}, "is a SamplingConfig, not int"),
    ],
)
def test_bad_generation_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        GenerationConfig().updated(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "tpu"}, "device='tpu': must be one of auto, cpu, cuda"),
        ({"max_batch": 0}, "max_batch=0"),
        ({"max_seq_len": 0}, "max_seq_len=0"),
        ({"colour": 1}, "unknown option 'colour'; allowed: .*max_batch"),
    ],
)
def test_bad_engine_options_are_refused(options: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replaced(EngineConfig(), **options)


def model_config() -> ModelConfig:
    return ModelConfig(
        contract_version=1,
        model_type="llama",
        num_layers=2,
        hidden_size=64,
        vocab_size=100,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        max_position=128,
        cache_dtype="float16",
        eos_token_ids=(1, 2),
        generation={"temperature": 0.6},
        provenance=Provenance(source="x.gguf", sha256="0", precision="f16", builder="genai-1"),
    )


def test_a_package_description_survives_the_disk(tmp_path: Path) -> None:
    model_config().write(tmp_path)
    assert ModelConfig.read(tmp_path) == model_config()
    assert "embedding" not in (tmp_path / "genai.json").read_text(), "which older runtimes do not know"
    embedding = EmbeddingConfig(
        pooling="mean", is_normalized=True, max_tokens=7, dimensions=(8, 16), prompts={"q": "Q: "}, default_prompt="q"
    )
    config = dataclasses.replace(model_config(), embedding=embedding)
    config.write(tmp_path)
    assert ModelConfig.read(tmp_path) == config


@pytest.mark.parametrize("change", [{"pooling": "max"}, {"default_prompt": "none"}, {"colour": 1}])
def test_damaged_descriptions_of_embeddings_are_refused(tmp_path: Path, change: dict[str, object]) -> None:
    model_config().write(tmp_path)
    data = json.loads((tmp_path / "genai.json").read_text())
    data["embedding"] = {"pooling": "last", "is_normalized": True, **change}
    (tmp_path / "genai.json").write_text(json.dumps(data))
    with pytest.raises(ContractError, match="damaged"):
        ModelConfig.read(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not a model package"),
        ("{", "damaged"),
        ("[]", "damaged"),
        ('{"contract_version": 99}', "contract version 99, this runtime reads 1"),
        ('{"contract_version": 1}', "damaged"),
        ('{"contract_version": 1, "eos_token_ids": [], "provenance": 5}', "damaged"),
        ("\xff", "damaged"),
    ],
)
def test_damaged_package_descriptions_are_refused(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "genai.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(ContractError, match=message):
        ModelConfig.read(tmp_path)
