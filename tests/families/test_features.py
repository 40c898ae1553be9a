"""Every feature of the engine on every family: texts are the plain one, log probabilities the model's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from genai.config import EngineConfig
from genai.decoding.processors import log_softmax
from genai.engine.scheduler import Pace
from genai.llm.generator import Generator
from genai.llm.llm import LLM
from genai.llm.results import Choice, Generation
from genai.runtime.states import num_state_slots
from tests.build import tiny
from tests.families.cases import CASES, MODEL_TYPES, hybrid
from tests.families.made import Made
from tests.families.oracle import TOLERANCE

PROMPT = tiny.tokens(40)
GREEDY: dict[str, object] = {"max_new_tokens": 20, "ignore_eos": True, "temperature": 0, "logprobs": True}
DRAWN = GREEDY | {"temperature": 5.0, "seed": 3}
"""Hot enough for another token now and then, whatever the size of the logits."""
CHUNK = 11
"""Tokens of a prompt in one run: windows end inside."""

FAMILIES = pytest.mark.parametrize("package", MODEL_TYPES, indirect=True)
WITH_STATES = {case.model_type for case in hybrid.CASES.values()}
"""Of which nothing is kept that spares as little as parts of these prompts."""
HYBRIDS = pytest.mark.parametrize("package", sorted(WITH_STATES), indirect=True)


@pytest.fixture(scope="module")
def package(request: pytest.FixtureRequest, made: Made) -> Path:
    """One package of each model type."""
    return made.package(CASES[MODEL_TYPES[request.param]], "safetensors")


@pytest.fixture(scope="module")
def llm(package: Path) -> Iterator[LLM]:
    """A model that keeps nothing of earlier prompts."""
    with loaded(package, prefix_cache_bytes=0) as llm:
        yield llm
        llm.loop.settle()
        assert llm._runner.cache.rows == ()


def loaded(package: Path, **options: object) -> LLM:
    limits = {
        "device": "cpu",
        "num_threads": 1,
        "max_batch": 4,
        "prefill_chunk": CHUNK,
        "prefix_cache_bytes": 4_000_000,
    }
    return LLM(package, EngineConfig(**(limits | options)))  # type: ignore[arg-type]


def plain(llm: LLM, prompt: Sequence[int] = PROMPT, **options: object) -> Generation:
    """A greedy text of a model that keeps nothing of earlier prompts."""
    return llm.generate(list(prompt), **(GREEDY | options))


def same(one: Generation, other: Generation) -> None:
    assert one.token_ids == other.token_ids
    np.testing.assert_allclose(logprobs(one.choices[0]), logprobs(other.choices[0]), atol=TOLERANCE)


def logprobs(choice: Choice) -> list[float]:
    assert choice.logprobs is not None
    return [each.logprob for each in choice.logprobs]


def forced(llm: LLM, choice: Choice) -> list[float]:
    """A text's log probabilities as the model gives them to all of it at once."""
    return scores(llm.logits(PROMPT + choice.token_ids), choice.token_ids)


def scores(logits: np.ndarray, generated: Sequence[int]) -> list[float]:
    lines = logits[-len(generated) - 1 : -1]
    return [float(log_softmax(line)[token]) for line, token in zip(lines, generated, strict=True)]


@FAMILIES
def test_greedy_texts_are_transformers(llm: LLM, made: Made, package: Path, request: pytest.FixtureRequest) -> None:
    """Which all other features are compared with."""
    result = plain(llm)
    folder = made.checkpoint(CASES[MODEL_TYPES[request.node.callspec.params["package"]]]).folder
    logits = tiny.expected(tiny.load(folder), PROMPT + result.token_ids)
    assert result.token_ids == [int(token) for token in logits[len(PROMPT) - 1 : -1].argmax(axis=-1)]
    np.testing.assert_allclose(logprobs(result.choices[0]), scores(logits, result.token_ids), atol=TOLERANCE * 10)
    hint = "a text that repeats itself hides mistakes: give the family's first case a head of its own"
    assert len(set(result.token_ids)) > 3, hint


@FAMILIES
def test_a_chat_goes_on_from_what_is_kept(package: Path, llm: LLM) -> None:
    with loaded(package) as caching:
        first = caching.generate(PROMPT, **GREEDY)
        turn = [*PROMPT, *first.token_ids, 7, 9]
        second = caching.generate(turn, **GREEDY)
    assert second.usage.cached_tokens == len(turn) - 3, "all but the last of the first text, which was not run, and two"
    same(second, plain(llm, turn))


@pytest.mark.parametrize("package", [each for each in MODEL_TYPES if each not in WITH_STATES], indirect=True)
def test_what_prompts_begin_with_is_kept(package: Path, llm: LLM) -> None:
    with loaded(package) as caching:
        first = caching.generate(PROMPT, **GREEDY)
        caching.generate([*PROMPT[:35], 7], **GREEDY)
        again = caching.generate(PROMPT, **GREEDY)
    assert (first.usage.cached_tokens, again.usage.cached_tokens >= 32) == (0, True)
    same(first, plain(llm))
    same(again, first)


@HYBRIDS
def test_chats_share_their_system_prompt(package: Path, llm: LLM) -> None:
    """The second one finds out where they part, and those that come later go on from there."""
    system = tiny.tokens(96, seed=1)
    prompts = [[*system, *tiny.tokens(10, seed)] for seed in (2, 3, 4)]
    with loaded(package) as caching:
        results = [caching.generate(prompt, **GREEDY) for prompt in prompts]
    assert [result.usage.cached_tokens for result in results] == [0, 0, 96]
    for prompt, result in zip(prompts, results, strict=True):
        same(result, plain(llm, prompt))


@FAMILIES
def test_texts_of_one_prompt_each_have_their_own(llm: LLM) -> None:
    results = llm.generate(PROMPT, n=3, **DRAWN)
    assert len({tuple(choice.token_ids) for choice in results.choices}) == 3
    for choice in results.choices:
        np.testing.assert_allclose(logprobs(choice), forced(llm, choice), atol=TOLERANCE * 10)


@FAMILIES
def test_beams_have_the_scores_of_their_texts(llm: LLM) -> None:
    greedy = plain(llm)
    (one,) = llm.generate(PROMPT, num_beams=1, **GREEDY).choices
    assert one.token_ids == greedy.token_ids
    beams = llm.generate(
        PROMPT, num_beams=3, num_return_sequences=3, length_penalty=0.0, **(GREEDY | {"logprobs": False})
    )
    assert len({tuple(beam.token_ids) for beam in beams.choices}) == 3
    for beam in beams.choices:
        assert beam.score == pytest.approx(sum(forced(llm, beam)), abs=TOLERANCE * 100)


@FAMILIES
def test_drafts_change_nothing(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Pace, "saw_draft", lambda *_: None)  # drafts are worth it, whatever the clock says
    options = DRAWN | {"allowed_token_ids": tuple(PROMPT[:2]), "max_new_tokens": 60}  # much comes again
    drafted = plain(llm, speculative="prompt_lookup", **options)
    same(drafted, plain(llm, **options))
    assert drafted.drafts is not None
    assert 0 < drafted.drafts.num_accepted < drafted.drafts.num_drafted, "some come true, some do not"


@HYBRIDS
def test_a_draft_model_with_states_changes_nothing(package: Path, llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """It proposes what the text may not have, and goes on from before that."""
    monkeypatch.setattr(Pace, "saw_draft", lambda *_: None)
    never = {"suppress_tokens": (plain(llm).token_ids[5],)}
    with loaded(package) as draft:
        drafted = plain(llm, draft=draft, **never)
        assert draft._runner.cache.rows == ()
    same(drafted, plain(llm, **never))
    assert drafted.drafts is not None
    assert 0 < drafted.drafts.num_accepted < drafted.drafts.num_drafted


@FAMILIES
def test_a_saved_text_goes_on_elsewhere(package: Path, llm: LLM, tmp_path: Path) -> None:
    expected = plain(llm).token_ids
    with begun(llm) as generator:
        first = [generator.generate_next_token() for _ in range(7)]
        generator.save(tmp_path / "text.safetensors")
        logits = generator.logits
    with loaded(package) as other, other.restore(tmp_path / "text.safetensors") as restored:
        np.testing.assert_array_equal(restored.logits, logits)
        assert first + rest(restored) == expected


@FAMILIES
def test_a_rewound_text_is_never_gone_further(llm: LLM) -> None:
    expected = plain(llm).token_ids
    with begun(llm) as generator:
        assert rest(generator) == expected
        generator.rewind_to(len(PROMPT) + 4)
        assert rest(generator) == expected[4:]
        generator.rewind_to(13)
        generator.append_input_tokens(PROMPT[13:])
        assert rest(generator) == expected


def begun(llm: LLM) -> Generator:
    generator = llm.generator(**{key: value for key, value in GREEDY.items() if key != "logprobs"})
    generator.append_input_tokens(PROMPT)
    return generator


def rest(generator: Generator) -> list[int]:
    tokens = []
    while not generator.is_done:
        tokens.append(generator.generate_next_token())
    return tokens


@FAMILIES
def test_texts_that_gave_way_go_on_as_if_they_had_not(package: Path, llm: LLM) -> None:
    prompts = [tiny.tokens(length, seed) for seed, length in enumerate((20, 23, 26))]
    slots = 128  # three texts can begin, two can end
    options = GREEDY | {"max_new_tokens": 40}
    shape = llm._runner.cache.shape
    states = num_state_slots(4) * shape.bytes_per_row
    limits = {"kv_cache_bytes": slots * shape.bytes_per_token + states, "max_seq_len": 100}
    with loaded(package, prefix_cache_bytes=0, **limits) as short:
        short._runner.cache.policy = replace(short._runner.cache.policy, headroom=0)
        results = short.generate(prompts, **options)
    assert sum(result.timings.num_preemptions for result in results) > 0
    for prompt, result in zip(prompts, results, strict=True):
        same(result, plain(llm, prompt, **options))
