"""Packages whose layers differ, with sinks and without: whatever the engine does, each text is the model's own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from genai.config import EngineConfig, ModelConfig
from genai.errors import ConfigError, ContractError
from genai.llm.llm import LLM
from genai.runtime.states import sizes_of
from tests.device_double import registered
from tests.mixed_package import MixedModel, mixed_package
from tests.tiny_package import tiny_package

PROMPTS = [list(b"Once upon a time"), list(b"abc"), list(b"The quick brown fox jumps over"), list(b"7 and 8 are 15")]
GREEDY = {"temperature": 0, "ignore_eos": True}


def own_text(model: MixedModel, prompt: list[int], count: int) -> list[int]:
    """What the model says, computed whole for each token."""
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(model.logits(tokens)[-1].argmax()))
    return tokens[len(prompt) :]


@pytest.fixture(scope="module", params=["by layer", "sinks", "states"])
def model(request: pytest.FixtureRequest) -> MixedModel:
    return MixedModel(has_sinks=request.param == "sinks", has_states=request.param == "states")


def states_bytes(model: MixedModel, max_batch: int) -> int:
    """What states take of a budget."""
    return (max_batch + 2) * sum(sizes_of(model.states))


@pytest.fixture(scope="module")
def folder(model: MixedModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models") / "mixed"
    return mixed_package(path, has_sinks=model.has_sinks, has_states=model.has_states)


@pytest.fixture(scope="module", params=["cpu", "double"])
def llm(request: pytest.FixtureRequest, folder: Path) -> Iterator[LLM]:
    with registered(), LLM(folder, EngineConfig(device=request.param, num_threads=1, max_seq_len=120)) as loaded:
        yield loaded
        loaded.loop.settle()
        assert loaded._runner.cache.rows == ()
        loaded._runner.cache.check_integrity()


def test_texts_together_are_the_models_own(llm: LLM, model: MixedModel) -> None:
    texts = llm.generate(PROMPTS, max_new_tokens=40, **GREEDY)
    assert [text.token_ids for text in texts] == [own_text(model, prompt, 40) for prompt in PROMPTS]
    np.testing.assert_allclose(llm.logits(PROMPTS[0]), model.logits(PROMPTS[0]), atol=5e-5)  # measured: 1e-5


def logprobs_of(model: MixedModel, tokens: list[int]) -> np.ndarray:
    """[T, V]: of what follows each token."""
    logits = model.logits(tokens)
    result: np.ndarray = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return result


def test_forks_begin_as_their_parent(llm: LLM, model: MixedModel) -> None:
    options = {"temperature": 0.9, "seed": 3, "max_new_tokens": 20, "ignore_eos": True, "logprobs": True}
    forks = llm.generate(PROMPTS[0], n=3, **options).choices
    assert len({tuple(fork.token_ids) for fork in forks}) == 3
    for fork in forks:
        own = logprobs_of(model, [*PROMPTS[0], *fork.token_ids])[len(PROMPTS[0]) - 1 :]
        told = [each.logprob for each in fork.logprobs or []]
        expected = [own[place, token] for place, token in enumerate(fork.token_ids)]
        np.testing.assert_allclose(told, expected, atol=5e-5)  # measured: 1e-5


def test_a_beam_search_scores_as_the_model_does(llm: LLM, model: MixedModel) -> None:
    found = llm.generate(PROMPTS[1], num_beams=3, max_new_tokens=12, ignore_eos=True, length_penalty=0.0)
    beams = [(0.0, list(PROMPTS[1]))]
    for _ in range(12):
        further = []
        for score, tokens in beams:
            logprobs = logprobs_of(model, tokens)[-1]
            further += [(score + logprobs[token], [*tokens, int(token)]) for token in np.argsort(-logprobs)[:3]]
        beams = sorted(further, key=lambda beam: -beam[0])[:3]
    assert [*PROMPTS[1], *found.token_ids] == beams[0][1]


def test_rewound_and_restored_texts_go_on(llm: LLM, folder: Path, model: MixedModel, tmp_path: Path) -> None:
    expected = own_text(model, PROMPTS[2], 24)
    with llm.generator(max_new_tokens=24, **GREEDY) as generator:
        generator.append_input_tokens(PROMPTS[2])
        for token in expected[:9]:
            assert generator.generate_next_token() == token
        generator.rewind_to(len(PROMPTS[2]) + 3)
        for token in expected[3:15]:
            assert generator.generate_next_token() == token
        generator.save(tmp_path / "text")
        generator.rewind_to(0)
        generator.append_input_tokens(PROMPTS[2])
        assert generator.generate_next_token() == expected[0]
    config = EngineConfig(device="cpu", num_threads=1, max_seq_len=120)
    with LLM(folder, config) as other, other.restore(tmp_path / "text") as restored:
        assert [restored.generate_next_token() for _ in range(9)] == expected[15:]


def test_a_cache_smaller_than_the_need_changes_no_text(folder: Path, model: MixedModel) -> None:
    """Rows move, give way and are prefilled again; those that end leave holes."""
    bytes_per_token = sum(cache.width for cache in model.caches) * 4
    budget = 230 * bytes_per_token + states_bytes(model, 8)
    config = EngineConfig(device="cpu", num_threads=1, max_seq_len=100, max_batch=8, kv_cache_bytes=budget)
    with LLM(folder, config) as llm:
        assert llm._runner.cache.num_slots == 230
        prompts = [[*PROMPTS[index % 4], index] for index in range(8)]
        counts = [60, 20, 35, 50, 10, 44, 61, 30]
        texts = llm.generate(prompts, max_new_tokens=61, **GREEDY)
        for text, prompt, count in zip(texts, prompts, counts, strict=True):
            assert text.token_ids[:count] == own_text(model, prompt, count)


def test_a_chat_goes_on_from_the_prefix_cache(folder: Path, model: MixedModel) -> None:
    text = [*PROMPTS[2], *PROMPTS[0]]
    with LLM(folder, EngineConfig(device="cpu", num_threads=1, max_seq_len=120, max_batch=2)) as llm:
        first = llm.generate(text, max_new_tokens=20, **GREEDY)
        longer = [*text, *first.token_ids, *PROMPTS[3]]
        again = llm.generate([longer, [*text, 1], [*text, 2]], max_new_tokens=10, **GREEDY)
        cached = [each.usage.cached_tokens for each in again]
        if model.has_states:  # a chat goes on, and the others begin where nothing was put aside
            assert cached == [len(text) + 19, 0, 0]
        else:
            assert min(cached) > 16
    for prompt, each in zip([longer, [*text, 1], [*text, 2]], again, strict=True):
        assert each.token_ids == own_text(model, prompt, 10)


def test_the_longest_sequence_fills_the_arena_but_for_the_reserved_slot(folder: Path, model: MixedModel) -> None:
    bytes_per_token = sum(cache.width for cache in model.caches) * 4
    budget = 50 * bytes_per_token + states_bytes(model, 1)
    config = EngineConfig(device="cpu", num_threads=1, max_batch=1, kv_cache_bytes=budget)
    with LLM(folder, config) as llm:
        assert llm.max_seq_len == 50 - model.has_sinks
        text = llm.generate(PROMPTS[1], **GREEDY)
        assert len(PROMPTS[1]) + len(text.token_ids) == llm.max_seq_len
        assert text.token_ids == own_text(model, PROMPTS[1], len(text.token_ids))
        assert llm.engine.cache_status.total_bytes == 50 * bytes_per_token


def test_sessions_of_other_caches_and_older_ones(tmp_path: Path) -> None:
    """A file of version 1 says no widths; it is one of a uniform model, and goes on."""
    folder = tiny_package(tmp_path / "tiny")
    with LLM(folder, EngineConfig(device="cpu", num_threads=1, max_seq_len=100)) as llm:
        with llm.generator(max_new_tokens=12, **GREEDY) as generator:
            generator.append_input_tokens(PROMPTS[0])
            generator.generate_next_token()
            generator.save(tmp_path / "new")
            rest = [generator.generate_next_token() for _ in range(5)]
        with safe_open(tmp_path / "new", "numpy") as file:
            metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        assert json.loads(metadata["caches"])["value_cache.1"] == 32
        older = {key: value for key, value in metadata.items() if key != "caches"} | {"version": "1"}
        save_file(tensors, tmp_path / "older", older)
        with llm.restore(tmp_path / "older") as restored:
            assert [restored.generate_next_token() for _ in range(5)] == rest
        save_file(tensors, tmp_path / "wrong", metadata | {"caches": '{"key_cache.0": 128}'})
        with pytest.raises(ConfigError, match="caches or states of other layers or sizes than this model"):
            llm.restore(tmp_path / "wrong")
        save_file(tensors | {"cache.1": tensors["cache.1"][:-4]}, tmp_path / "short", metadata)
        with pytest.raises(ConfigError, match="not of this model's shape"):
            llm.restore(tmp_path / "short")


def test_drafts_and_sessions_of_a_model_with_states(tmp_path: Path) -> None:
    model = MixedModel(has_sinks=False, has_states=True)
    folder = mixed_package(tmp_path / "states", has_sinks=False, has_states=True)
    attention_only = mixed_package(tmp_path / "draft", has_sinks=False)
    config = EngineConfig(device="cpu", num_threads=1, max_seq_len=120)
    with LLM(folder, config) as llm, LLM(folder, config) as same, LLM(attention_only, config) as draft:
        prompt = [*b"one two one two one"]
        expected = own_text(model, prompt, 40)
        for options in ({"speculative": "prompt_lookup"}, {"draft": draft}, {"draft": same}):
            assert llm.generate(prompt, max_new_tokens=40, **GREEDY, **options).token_ids == expected
        with llm.generator(max_new_tokens=12, **GREEDY) as generator:
            generator.append_input_tokens(prompt)
            assert generator.generate_next_token() == expected[0]
            generator.save(tmp_path / "text")
        with safe_open(tmp_path / "text", "numpy") as file:
            metadata, tensors = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        assert metadata["version"] == "3"
        assert json.loads(metadata["states"])["conv_state.2"] == ["float32", 1, 32]
        for damage, message in (
            ({"states": "{}"}, "caches or states of other layers or sizes"),
            ({"cache.4": tensors["cache.4"][:-4]}, "not of this model's shape"),
            ({"cache.4": np.full_like(tensors["cache.4"], 255)}, "not all finite numbers"),
        ):
            words = metadata | {key: value for key, value in damage.items() if isinstance(value, str)}
            save_file(
                tensors | {key: value for key, value in damage.items() if key in tensors}, tmp_path / "bad", words
            )
            with pytest.raises(ConfigError, match=message):
                llm.restore(tmp_path / "bad")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "has no row_start.bin"),
        (b"1234", r"has 4 bytes, and one slot of the graph's 3 caches takes 112"),
        (b"\xff" * 112, "no finite number"),
    ],
)
def test_a_reserved_slot_that_is_not_whole_is_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    folder = mixed_package(tmp_path / "mixed", has_sinks=True)
    assert ModelConfig.read(folder).reserved_slots == 1
    (folder / "row_start.bin").unlink()
    if content is not None:
        (folder / "row_start.bin").write_bytes(content)
    with pytest.raises(ContractError, match=message):
        LLM(folder, EngineConfig(device="cpu", num_threads=1))


def test_layers_that_differ_are_not_contract_1(tmp_path: Path) -> None:
    folder = mixed_package(tmp_path / "mixed", has_sinks=False)
    data = json.loads((folder / "genai.json").read_text())
    assert data["contract_version"] == 2
    (folder / "genai.json").write_text(json.dumps(data | {"contract_version": 1}))
    with pytest.raises(ContractError, match="its layers' caches differ"):
        LLM(folder, EngineConfig(device="cpu", num_threads=1))
    for wrong in (2, -1):
        (folder / "genai.json").write_text(json.dumps(data | {"reserved_slots": wrong}))
        with pytest.raises(ContractError, match=f"reserved_slots={wrong}"):
            ModelConfig.read(folder)
