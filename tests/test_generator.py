"""Step by step, rewound, saved and restored: always the text that `generate` gives."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from genai.config import EngineConfig
from genai.errors import CapacityError, ConfigError
from genai.generator import Generator
from genai.llm import LLM
from tests.tiny_package import tiny_package

PROMPT = list(b"Once upon a time")
SAMPLED = {"temperature": 0.9, "seed": 5, "repetition_penalty": 1.2, "max_new_tokens": 24, "ignore_eos": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_package(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def llm(folder: Path) -> Iterator[LLM]:
    with LLM(folder, EngineConfig(device="cpu", max_batch=4, num_threads=1, max_seq_len=200)) as loaded:
        yield loaded
        assert loaded._runner.cache.rows == ()


def begun(llm: LLM, **options: object) -> Generator:
    generator = llm.generator(**{**SAMPLED, **options})
    generator.append_input_tokens(PROMPT)
    return generator


def continued(generator: Generator, count: int | None = None) -> list[int]:
    tokens = []
    while not generator.is_done and (count is None or len(tokens) < count):
        tokens.append(generator.generate_next_token())
    return tokens


def test_step_by_step_is_generate(llm: LLM) -> None:
    expected = llm.generate(PROMPT, **SAMPLED).token_ids
    with begun(llm) as generator:
        assert continued(generator) == expected
        assert generator.token_ids == PROMPT + expected
        with pytest.raises(ConfigError, match="the text has ended"):
            generator.generate_next_token()


def test_other_texts_may_run_in_between(llm: LLM) -> None:
    expected = llm.generate(PROMPT, **SAMPLED).token_ids
    with begun(llm) as generator:
        tokens = []
        while not generator.is_done:
            tokens.append(generator.generate_next_token())
            llm.generate(["x", "yy", "zzz", "wwww"], max_new_tokens=3)
        assert tokens == expected


def test_logits_are_the_models(llm: LLM) -> None:
    with begun(llm) as generator:
        tokens = continued(generator, 5)
        np.testing.assert_allclose(generator.logits, llm_logits(llm, PROMPT + tokens), atol=1e-4)
        generator.append_input_tokens([65, 66])
        expected = llm_logits(llm, [*PROMPT, *tokens, 65, 66])
        np.testing.assert_allclose(generator.logits, expected, atol=1e-4)
        before = generator.logits
        generator.logits[:] = 0
        np.testing.assert_array_equal(generator.logits, before)


def llm_logits(llm: LLM, tokens: list[int]) -> np.ndarray:
    """By way of the prompt's log probabilities, which need no cache to themselves."""
    with llm.generator() as other:
        other.append_input_tokens(tokens)
        return other.logits


def test_rewound_is_never_gone_further(llm: LLM) -> None:
    greedy = {"max_new_tokens": 20, "temperature": 0, "seed": None, "repetition_penalty": 1.3}
    expected = llm.generate(PROMPT, **{**SAMPLED, **greedy}).token_ids
    with begun(llm, **greedy) as generator:
        assert continued(generator, 9) == expected[:9]
        generator.rewind_to(len(PROMPT) + 4)
        assert generator.token_ids == PROMPT + expected[:4]
        assert continued(generator) == expected[4:]
        generator.rewind_to(len(PROMPT) + 2)  # after the end
        assert not generator.is_done
        assert continued(generator) == expected[2:]
        generator.rewind_to(3)
        generator.append_input_tokens(PROMPT[3:])
        assert continued(generator, 5) == expected[:5]
        generator.rewind_to(0)
        generator.append_input_tokens(PROMPT)
        assert continued(generator, 5) == expected[:5]


@pytest.mark.parametrize("count", [0, 1, 7])
def test_restored_is_never_stopped(llm: LLM, folder: Path, tmp_path: Path, count: int) -> None:
    with begun(llm) as generator:
        first = continued(generator, count)
        generator.save(tmp_path / "text.safetensors")
        logits = generator.logits
        rest = continued(generator)
    config = EngineConfig(device="cpu", num_threads=1, max_seq_len=200)
    with LLM(folder, config) as other, other.restore(tmp_path / "text.safetensors") as restored:
        assert restored.token_ids == PROMPT + first
        np.testing.assert_array_equal(restored.logits, logits)
        assert continued(restored) == rest


def test_sessions_of_other_models_and_damaged_ones_are_refused(llm: LLM, tmp_path: Path) -> None:
    path = tmp_path / "text.safetensors"
    with begun(llm) as generator:
        generator.save(path)
    data = path.read_bytes()
    tiny_package(tmp_path / "other", max_position=512)
    with LLM(tmp_path / "other", EngineConfig(device="cpu", num_threads=1, max_seq_len=100)) as other:
        other.restore(path).close()  # random weights of the same name: the same model
    for damaged, message in {
        data[: len(data) // 2]: "damaged",
        b"": "damaged",
        data.replace(b'"version":"1"', b'"version":"9"'): "version 9",
        data.replace(b'"identity":"Prov', b'"identity":"Xrov'): "another model",
        data.replace(b"genai-session", b"genai-SESSION"): "no saved session",
    }.items():
        assert damaged != data
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match=message):
            llm.restore(path)
    with pytest.raises(ConfigError, match="no such file"):
        llm.restore(tmp_path / "nothing")


def test_fuzzed_sessions_are_refused_or_harmless(llm: LLM, tmp_path: Path) -> None:
    path = tmp_path / "text.safetensors"
    with begun(llm) as generator:
        generator.save(path)
    data = bytearray(path.read_bytes())
    rng = np.random.default_rng(0)
    for _ in range(300):
        mutated = bytearray(data)
        for place in rng.integers(0, min(len(data), 3000), rng.integers(1, 4)):
            mutated[place] = rng.integers(0, 256)
        path.write_bytes(mutated)
        with contextlib.suppress(ConfigError, CapacityError):
            llm.restore(path).close()


def test_what_a_generator_cannot_do_is_refused(llm: LLM) -> None:
    for options, message in (({"n": 2}, "n:"), ({"num_beams": 2}, "num_beams:"), ({"stop": "x"}, "stop_strings:")):
        with pytest.raises(ConfigError, match=message):
            llm.generator(**options)
    generator = llm.generator()
    with pytest.raises(ConfigError, match="the text is empty"):
        generator.generate_next_token()
    for bad in ([], "text", [1.5], None):
        with pytest.raises(ConfigError, match="takes a list of token ids"):
            generator.append_input_tokens(bad)  # type: ignore[arg-type]
    with pytest.raises(CapacityError, match="199"):
        generator.append_input_tokens([1] * 500)
    generator.append_input_tokens([1] * 150)
    with pytest.raises(CapacityError, match="at most 200"):
        generator.append_input_tokens([1] * 51)
    with pytest.raises(ConfigError, match=r"rewind_to\(151\)"):
        generator.rewind_to(151)
    generator.close()
    generator.close()
