"""Step by step, rewound, saved and restored: always the text that `generate` gives."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from genai.config import Device, EngineConfig
from genai.errors import CapacityError, ConfigError, QueueFullError
from genai.llm.async_llm import AsyncLLM
from genai.llm.generator import Generator
from genai.llm.llm import LLM
from tests.device_double import registered
from tests.tiny_package import tiny_package

PROMPT = list(b"Once upon a time")
SAMPLED = {"temperature": 0.9, "seed": 5, "repetition_penalty": 1.2, "max_new_tokens": 24, "ignore_eos": True}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_package(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module", params=["cpu", "double"])
def device(request: pytest.FixtureRequest) -> Iterator[Device]:
    with registered():
        yield request.param


@pytest.fixture(scope="module")
def llm(folder: Path, device: Device) -> Iterator[LLM]:
    with LLM(folder, EngineConfig(device=device, max_batch=4, num_threads=1, max_seq_len=200)) as loaded:
        yield loaded
        loaded.loop.settle()
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


def test_the_prompt_may_come_in_parts(llm: LLM) -> None:
    expected = llm.generate(PROMPT, **SAMPLED).token_ids
    with llm.generator(**SAMPLED) as generator:
        generator.append_input_tokens(PROMPT[:3])
        assert generator.logits.size
        generator.append_input_tokens(PROMPT[3:])
        assert continued(generator) == expected


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
    """On a device or off it."""
    with begun(llm) as generator:
        first = continued(generator, count)
        generator.save(tmp_path / "text.safetensors")
        logits = generator.logits
        rest = continued(generator)
    for device in ("cpu", "double"):
        config = EngineConfig(device=device, num_threads=1, max_seq_len=200)  # type: ignore[arg-type]
        with LLM(folder, config) as other, other.restore(tmp_path / "text.safetensors") as restored:
            assert restored.token_ids == PROMPT + first
            np.testing.assert_array_equal(restored.logits, logits)
            assert continued(restored) == rest


def test_sessions_of_other_models_and_damaged_ones_are_refused(llm: LLM, device: Device, tmp_path: Path) -> None:
    path = tmp_path / "text.safetensors"
    with begun(llm) as generator:
        generator.save(path)
    data = path.read_bytes()
    tiny_package(tmp_path / "other", max_position=512)
    with LLM(tmp_path / "other", EngineConfig(device=device, num_threads=1, max_seq_len=100)) as other:
        other.restore(path).close()  # random weights of the same name: the same model
    for damaged, message in {
        data[: len(data) // 2]: "damaged",
        b"": "damaged",
        data.replace(b'"version":"2"', b'"version":"9"'): "version 9",
        data.replace(b'"identity":"Prov', b'"identity":"Xrov'): "another model",
        data.replace(b"genai-session", b"genai-SESSION"): "no saved session",
    }.items():
        assert damaged != data
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match=message):
            llm.restore(path)
    with pytest.raises(ConfigError, match="no such file"):
        llm.restore(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["cache.1", "logits"])
def test_sessions_whose_numbers_are_not_finite_are_refused(llm: LLM, tmp_path: Path, name: str) -> None:
    """They would break the texts that get the row's slots later."""
    path = tmp_path / "text.safetensors"
    with begun(llm) as generator:
        generator.save(path)
    with safe_open(path, "numpy") as file:
        metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    tensors[name].view(np.uint8)[4:8] = 255
    save_file(tensors, path, metadata)
    with pytest.raises(ConfigError, match="not all finite"):
        llm.restore(path)


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
    with pytest.raises(CapacityError, match="at most 199"):
        generator.append_input_tokens([1] * 51)
    with pytest.raises(ConfigError, match=r"rewind_to\(151\)"):
        generator.rewind_to(151)
    generator.close()
    generator.close()


def test_no_token_beyond_a_limit(llm: LLM) -> None:
    with begun(llm, max_new_tokens=3) as generator:
        generator.generate_next_token()
        generator.append_input_tokens([65, 66])
        assert generator.is_done
        assert generator.logits.shape == (llm.config.vocab_size,)
        with pytest.raises(ConfigError, match="the text has ended"):
            generator.generate_next_token()
        generator.rewind_to(len(PROMPT) + 1)
        assert len(continued(generator)) == 2
    with begun(llm, max_new_tokens=0) as generator:
        assert generator.is_done


def test_a_full_text_fits_a_cache_of_its_length(folder: Path, device: Device) -> None:
    config = EngineConfig(device=device, num_threads=1, max_batch=1, max_seq_len=64)
    with LLM(folder, config) as llm:
        assert llm._runner.cache.num_slots == 64 + 1, "and what padding may take"
        first, second = llm.generator(max_new_tokens=None), llm.generator(max_new_tokens=None)
        first.append_input_tokens([65] * 62)
        first.generate_next_token()
        first.append_input_tokens([66])
        second.append_input_tokens([65])
        np.testing.assert_array_equal(second.logits, second.logits)
        assert first.logits.shape == second.logits.shape
        assert first.is_done
        first.close()
        second.close()


def test_a_fulfilled_constraint_ends_the_text(llm: LLM) -> None:
    options = {"choices": ["yes", "yesterday"], "temperature": 0, "seed": None}
    expected = llm.generate(PROMPT, **{**SAMPLED, **options})
    with begun(llm, **options) as generator:
        assert continued(generator) == expected.token_ids
        assert generator.is_done


def test_a_text_goes_on_after_its_end(llm: LLM) -> None:
    settings = {"temperature": 0, "seed": None, "repetition_penalty": 1.3, "ignore_eos": False}
    whole = llm.generate(PROMPT, **{**SAMPLED, **settings, "ignore_eos": True}).token_ids
    with begun(llm, **settings, eos_token_ids=(whole[3],)) as generator:
        ended = continued(generator)
        assert ended[-1] == whole[3]
        generator.append_input_tokens([70, 71])
        np.testing.assert_allclose(generator.logits, llm_logits(llm, [*PROMPT, *ended, 70, 71]), atol=1e-4)
        assert not generator.is_done


def test_rewound_into_the_prompt_forgets_it(llm: LLM) -> None:
    """Penalties count what is there, not what was."""
    few = tuple({*PROMPT, 70, 71})
    settings = {"temperature": 0, "seed": None, "repetition_penalty": 1.9, "allowed_token_ids": few}
    with begun(llm, **settings) as generator:
        continued(generator, 5)
        generator.rewind_to(3)
        assert generator.token_ids == PROMPT[:3]
        generator.append_input_tokens([70, 71])
        rewound = continued(generator, 8)
    with llm.generator(**{**SAMPLED, **settings}) as fresh:
        fresh.append_input_tokens(PROMPT[:3])
        fresh.append_input_tokens([70, 71])
        assert continued(fresh, 8) == rewound


def test_tokens_outside_the_vocabulary_are_refused_later_too(llm: LLM) -> None:
    with begun(llm) as generator:
        for bad in (-1, llm.config.vocab_size):
            with pytest.raises(ConfigError, match=f"token id {bad} is outside"):
                generator.append_input_tokens([bad])
        assert generator.token_ids == PROMPT


def test_options_without_a_meaning_are_refused(llm: LLM) -> None:
    for name, value in {"echo": True, "logprobs": True, "prompt_logprobs": 1, "speculative": "prompt_lookup"}.items():
        with pytest.raises(ConfigError, match=f"{name}:"):
            llm.generator(**{name: value})


def test_a_generator_of_a_closed_model_is_refused(folder: Path, device: Device) -> None:
    with LLM(folder, EngineConfig(device=device, num_threads=1, max_seq_len=64)) as llm:
        generator, empty = begun(llm), llm.generator()
        generator.generate_next_token()
    with pytest.raises(ConfigError, match="closed"):
        empty.append_input_tokens([1])
    assert generator.is_done
    with pytest.raises(ConfigError, match="closed"):
        generator.generate_next_token()
    with pytest.raises(ConfigError, match="closed"):
        generator.append_input_tokens([1])
    generator.close()
    empty.close()


def test_a_forgotten_generator_frees_its_row(llm: LLM) -> None:
    generator = begun(llm)
    generator.generate_next_token()
    del generator
    gc.collect()
    llm.generate("x", max_new_tokens=1)
    assert llm._runner.cache.rows == ()
    assert not llm.engine.has_work


def test_coroutines_run_beside_generators_and_end_nobody_elses_text(folder: Path, device: Device) -> None:
    with LLM(folder, EngineConfig(device=device, num_threads=1, max_seq_len=64)) as llm:
        expected = llm.generate(PROMPT, **SAMPLED).token_ids
        kept = begun(llm)
        tokens = continued(kept, 3)

        async def beside() -> None:
            model = AsyncLLM(llm)
            other = await model.submit("x", max_new_tokens=2)
            assert [chunk.result async for chunk in other][-1] is not None
            left = await model.submit("y", max_new_tokens=40, ignore_eos=True)
            again = AsyncLLM(llm)
            model.close()
            assert [chunk.finish_reason async for chunk in left][-1] in {"cancelled", "length"}
            with pytest.raises(QueueFullError, match="closed"):
                await model.submit("x")
            assert [chunk.result async for chunk in await again.submit("x", max_new_tokens=2)][-1] is not None
            again.close()

        asyncio.run(beside())
        assert tokens + continued(kept) == expected
        kept.close()
        assert llm._runner.cache.rows == ()


def test_threads_share_a_model_with_open_generators(llm: LLM) -> None:
    expected = llm.generate(PROMPT, **SAMPLED).token_ids
    failures: list[BaseException] = []

    def stepping() -> None:
        try:
            with begun(llm) as generator:
                assert continued(generator) == expected
        except BaseException as error:
            failures.append(error)

    def whole() -> None:
        try:
            assert all(each.token_ids == expected for each in llm.generate([PROMPT] * 3, **SAMPLED))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=each) for each in (stepping, whole, stepping, whole, stepping)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


def test_tokens_that_a_constraint_forbids_are_refused_and_leave_the_text_as_it_was(llm: LLM) -> None:
    with llm.generator(regex="abcd") as generator:
        generator.append_input_tokens(PROMPT)
        assert generator.generate_next_token() == ord("a")
        with pytest.raises(ConfigError, match="token 120 does not follow the constraint after 2 tokens"):
            generator.append_input_tokens(list(b"bx"))
        assert generator.token_ids == [*PROMPT, ord("a")]
        generator.append_input_tokens(list(b"bc"))
        assert generator.generate_next_token() == ord("d")
