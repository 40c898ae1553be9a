"""Every option of generation through a whole (tiny) model: each changes what it should, and only that."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from genai.config import EngineConfig
from genai.engine.drafting.draft_model import ModelProposer
from genai.engine.scheduler import Pace
from genai.engine.streams import MAX_UNREAD, Follower
from genai.errors import CapacityError, ConfigError, TokenizerError
from genai.grammar.grammar import Vocabulary
from genai.llm.async_llm import AsyncLLM
from genai.llm.llm import LLM
from genai.llm.results import Chunk
from tests.tiny_package import END_ID, tiny_package

PROMPT = "Once upon a time"
TOKENS = list(PROMPT.encode())
CHAT = [{"role": "user", "content": "Hi"}]
FREE = {"max_new_tokens": 12, "ignore_eos": True}
SAMPLED = {**FREE, "temperature": 1.0, "seed": 3}


@pytest.fixture(scope="module")
def llm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LLM]:
    folder = tiny_package(tmp_path_factory.mktemp("models") / "tiny")
    with LLM(folder, EngineConfig(device="cpu", max_batch=4, num_threads=1, max_seq_len=1200)) as loaded:
        yield loaded
        loaded.loop.settle()
        assert loaded._runner.cache.rows == ()


@pytest.fixture
def steady(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Drafts are worth it, whatever this machine's clock says."""
    monkeypatch.setattr(Pace, "saw_draft", lambda *_: None)
    monkeypatch.setattr(llm.engine._pace, "draft_cost", 0.05)


@pytest.mark.parametrize(
    "options",
    [
        {"top_k": 2},
        {"top_p": 0.05},
        {"min_p": 0.9},
        {"typical_p": 0.05},
        {"repetition_penalty": 3.0},
        {"presence_penalty": 50.0},
        {"frequency_penalty": 50.0},
        {"no_repeat_ngram_size": 1},
        {"logit_bias": {65: 1000}},
        {"allowed_token_ids": [65, 66]},
        {"xtc_probability": 1.0, "xtc_threshold": 0.001},
        {"dry_multiplier": 50.0, "dry_allowed_length": 1},
        {"seed": 4},
        {"temperature": 0.05},
    ],
    ids=lambda options: next(iter(options)),
)
def test_an_option_changes_the_text(llm: LLM, options: dict[str, object]) -> None:
    prompt = "aaaa bbbb aaaa bbbb"
    plain = llm.generate(prompt, **{**SAMPLED, "max_new_tokens": 40})
    changed = llm.generate(prompt, **{**SAMPLED, "max_new_tokens": 40, **options})
    assert plain.token_ids != changed.token_ids
    assert changed.token_ids == llm.generate(prompt, **{**SAMPLED, "max_new_tokens": 40, **options}).token_ids
    together = llm.generate([prompt, "x", prompt], **{**SAMPLED, "max_new_tokens": 40, **options})
    assert changed.token_ids == together[0].token_ids == together[2].token_ids


def test_bad_words_never_come(llm: LLM) -> None:
    plain = llm.generate(TOKENS, **FREE).token_ids
    pair = plain[3:5]
    without = llm.generate(TOKENS, **FREE, bad_words=[pair, [plain[0]]]).token_ids
    assert plain[0] not in without
    assert all(without[at : at + 2] != pair for at in range(len(without)))
    biased = {"logit_bias": {ord("q"): 100}}
    assert "q" in llm.generate(PROMPT, **FREE, **biased).text
    assert "q" not in llm.generate(PROMPT, **FREE, **biased, bad_words=["q"]).text


def test_xtc_leaves_ends_of_lines(llm: LLM) -> None:
    newline = {"logit_bias": {10: 40.0}, "allowed_token_ids": [10, 65, 66, 67]}
    always = {"xtc_probability": 1.0, "xtc_threshold": 0.0}
    assert set(llm.generate(PROMPT, **SAMPLED, **newline, **always).token_ids) == {10}
    top = {"logit_bias": {65: 40.0}, "allowed_token_ids": [65, 66, 67]}
    assert 65 not in llm.generate(PROMPT, **SAMPLED, **top, **always).token_ids


def test_lengths(llm: LLM) -> None:
    assert len(llm.generate(TOKENS, max_length=len(TOKENS) + 5, ignore_eos=True).token_ids) == 5
    with pytest.raises(CapacityError, match=r"max_length=16 leaves nothing: the prompt has 16 tokens"):
        llm.generate(TOKENS, max_length=16)
    ends = {"logit_bias": {END_ID: 1000}, "max_new_tokens": 30}
    assert llm.generate(TOKENS, **ends).token_ids == [END_ID]
    assert len(llm.generate(TOKENS, **ends, min_new_tokens=7).token_ids) == 8
    assert len(llm.generate(TOKENS, **ends, min_length=len(TOKENS) + 3).token_ids) == 4
    nothing = llm.generate(TOKENS, max_new_tokens=0, prompt_logprobs=0)
    assert (nothing.text, nothing.token_ids, nothing.finish_reason) == ("", [], "length")


def test_several_texts(llm: LLM) -> None:
    result = llm.generate(PROMPT, **SAMPLED, n=3)
    assert [choice.index for choice in result.choices] == [0, 1, 2]
    assert len({choice.text for choice in result.choices}) == 3
    assert result.text == result.choices[0].text == llm.generate(PROMPT, **SAMPLED).text
    assert (result.usage.prompt_tokens, result.usage.completion_tokens) == (16, 36)
    chunks = list(llm.stream(PROMPT, **SAMPLED, n=3))
    for choice in result.choices:
        own = [chunk for chunk in chunks if chunk.index == choice.index]
        assert "".join(chunk.text for chunk in own) == choice.text
        assert [chunk.finish_reason for chunk in own if chunk.finish_reason] == ["length"]
    assert [chunk.result is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


def test_beams(llm: LLM) -> None:
    result = llm.generate(PROMPT, **FREE, num_beams=3, num_return_sequences=2)
    scores = [choice.score for choice in result.choices]
    assert scores == sorted(scores, reverse=True)
    greedy = llm.generate([*TOKENS, *llm.generate(TOKENS, **FREE).token_ids], max_new_tokens=0, prompt_logprobs=0)
    assert greedy.prompt_logprobs is not None
    total = sum(each.logprob for each in greedy.prompt_logprobs[len(TOKENS) :] if each is not None)
    assert result.choices[0].score is not None
    assert result.choices[0].score >= total / 12 - 1e-5, "no worse than greedy"
    chunks = list(llm.stream(PROMPT, **FREE, num_beams=3))
    assert "".join(chunk.text for chunk in chunks) == result.text


def test_logprobs(llm: LLM) -> None:
    result = llm.generate(TOKENS, **SAMPLED, logprobs=True, top_logprobs=4, prompt_logprobs=2)
    assert result.logprobs is not None
    assert [each.token_id for each in result.logprobs] == result.token_ids
    logits = llm.logits([*TOKENS, *result.token_ids])
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    for each, row in zip(result.logprobs, logprobs[len(TOKENS) - 1 :], strict=False):
        assert each.logprob == pytest.approx(row[each.token_id], abs=1e-4)
        assert [token for token, _ in each.top] == list(np.argsort(-row)[:4])
    assert result.prompt_logprobs is not None
    assert result.prompt_logprobs[0] is None
    for noted, token, row in zip(result.prompt_logprobs[1:], TOKENS[1:], logprobs, strict=False):
        assert noted is not None
        assert (noted.token_id, len(noted.top)) == (token, 2)
        assert noted.logprob == pytest.approx(row[token], abs=1e-4)
    streamed = [each for chunk in llm.stream(TOKENS, **SAMPLED, logprobs=True) for each in chunk.logprobs or ()]
    assert [each.token_id for each in streamed] == result.token_ids


def test_echo(llm: LLM) -> None:
    plain = llm.generate(PROMPT, **FREE).text
    assert llm.generate(PROMPT, **FREE, echo=True).text == PROMPT + plain
    assert llm.generate(TOKENS, **FREE, echo=True).text == PROMPT + plain
    assert "".join(chunk.text for chunk in llm.stream(PROMPT, **FREE, echo=True)) == PROMPT + plain
    assert llm.generate(PROMPT, echo=True, max_new_tokens=0).text == PROMPT


@pytest.mark.parametrize("ignore_eos", [False, True])
def test_constraints(llm: LLM, ignore_eos: bool) -> None:
    free = {"temperature": 1.0, "seed": 1, "max_new_tokens": 200, "ignore_eos": ignore_eos}
    assert llm.generate(PROMPT, **free, choices=["yes", "no"]).text in {"yes", "no"}
    result = llm.generate(PROMPT, **free, regex="[ab]{3}-[0-9]{2}")
    assert result.text[3] == "-"
    assert set(result.text[:3]) <= {"a", "b"}
    assert result.finish_reason == "stop"
    schema = {
        "type": "object",
        "properties": {"on": {"type": "boolean"}, "size": {"enum": [1, 2]}},
        "required": ["on", "size"],
        "additionalProperties": False,
    }
    several = llm.generate(CHAT, **free, json_schema=schema, n=3)
    for choice in several.choices:
        assert json.loads(choice.text).keys() == {"on", "size"}
    best = llm.generate(PROMPT, max_new_tokens=40, choices=["good", "bad", "indifferent"], num_beams=3)
    assert best.text in {"good", "bad", "indifferent"}
    for bad, message in (
        ({"json_schema": {"type": "number"}, "regex": "a"}, "cannot be had together"),
        ({"regex": "("}, "regex"),
    ):
        with pytest.raises(ConfigError, match=message):
            llm.generate(PROMPT, **bad)


@pytest.mark.parametrize("ignore_eos", [False, True])
@pytest.mark.parametrize("num_returned", [1, 3])
def test_beams_under_a_constraint_are_the_best_of_all_texts(llm: LLM, ignore_eos: bool, num_returned: int) -> None:
    words = ["good", "bad", "indifferent"]
    beams = {"num_beams": 4, "num_return_sequences": num_returned, "stop_criteria": "NEVER", "length_penalty": 0.5}
    result = llm.generate(TOKENS, choices=words, max_new_tokens=40, ignore_eos=ignore_eos, **beams)
    scores = {}
    for word in words:
        tokens = [*word.encode(), *([] if ignore_eos else [END_ID])]
        logits = llm.logits([*TOKENS, *tokens])[len(TOKENS) - 1 : -1]
        logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        scores[word] = logprobs[range(len(tokens)), tokens].sum() / len(tokens) ** 0.5
    best = sorted(words, key=lambda word: -scores[word])[:num_returned]
    assert [choice.text for choice in result.choices] == best
    assert [choice.score for choice in result.choices] == pytest.approx([scores[word] for word in best], abs=1e-3)
    assert {choice.finish_reason for choice in result.choices} == {"stop"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"choices": ["yes"], "allowed_token_ids": [65]}, "after 0 tokens the constraint and allowed_token_ids rule"),
        ({"choices": ["yes"], "bad_words": ["y"]}, "the constraint and bad_words rule out"),
        ({"choices": ["yes"], "logit_bias": {ord("y"): float("-inf")}}, "the constraint and logit_bias rule out"),
        ({"allowed_token_ids": [65], "bad_words": [[65]]}, "allowed_token_ids and bad_words rule out"),
        ({"allowed_token_ids": [END_ID], "min_new_tokens": 1}, "allowed_token_ids and min_new_tokens=1 rule out"),
    ],
    ids=str,
)
def test_contradictions_are_refused_before_anything_runs(llm: LLM, options: dict[str, object], message: str) -> None:
    before = llm.graph_seconds
    for more in ({}, {"num_beams": 2}, {"temperature": 1.0, "n": 2}):
        with pytest.raises(ConfigError, match=message):
            llm.generate(PROMPT, **options, **more)
    assert llm.graph_seconds == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"choices": ["yes"], "min_new_tokens": 4}, "after 3 tokens the constraint and min_new_tokens=4 rule out"),
        ({"regex": "ab", "bad_words": [[97, 98]]}, "after 1 tokens the constraint and bad_words rule out"),
    ],
    ids=str,
)
def test_contradictions_on_the_way_are_the_requests_fault(llm: LLM, options: dict[str, object], message: str) -> None:
    other, failing = llm.prepare(TOKENS, **FREE), llm.prepare(TOKENS, **options)
    ends = [threading.Event() for _ in range(2)]
    followers = [Follower(each.writer, end.set) for each, end in zip((other, failing), ends, strict=True)]
    jobs = [llm.loop.submit(each.request, to) for each, to in zip((other, failing), followers, strict=True)]
    for end in ends:
        llm.loop.wait(end)
    assert isinstance(jobs[1].error, ConfigError)
    assert message in str(jobs[1].error)
    assert other.writer.result(jobs[0]).token_ids == llm.generate(TOKENS, **FREE).token_ids


def test_a_model_that_is_warm_reads_no_vocabulary_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with LLM(tiny_package(tmp_path / "tiny"), EngineConfig(device="cpu", num_threads=1, max_seq_len=100)) as warm:
        warm.warm_up()
        monkeypatch.setattr(Vocabulary, "__init__", lambda *_: pytest.fail("it is read once"))
        warm.warm_up()
        assert warm.generate(PROMPT, choices=["yes"]).text == "yes"


def test_a_tokenizer_that_cannot_be_constrained_is_told_to_who_asks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise TokenizerError("this model's tokenizer cannot be constrained")

    monkeypatch.setattr(Vocabulary, "__init__", refuse)
    with LLM(tiny_package(tmp_path / "tiny"), EngineConfig(device="cpu", num_threads=1, max_seq_len=100)) as llm:
        llm.warm_up()
        assert llm.generate(PROMPT, max_new_tokens=1).token_ids
        with pytest.raises(TokenizerError, match="cannot be constrained"):
            llm.generate(PROMPT, choices=["yes"])


def test_forced_tokens_save_runs(llm: LLM) -> None:
    text = "exactly this and nothing else"
    runs = []
    run_row = llm._runner.run_row
    llm._runner.run_row = lambda *args: runs.append(1) or run_row(*args)  # type: ignore[method-assign, func-returns-value]
    advance = llm._runner.advance
    llm._runner.advance = lambda *args: runs.append(1) or advance(*args)  # type: ignore[method-assign, func-returns-value]
    try:
        assert llm.generate(PROMPT, choices=[text]).text == text
    finally:
        del llm._runner.run_row, llm._runner.advance  # type: ignore[method-assign]
    assert len(runs) < 6


TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "parameters": {"type": "object", "properties": {"at": {"enum": ["sky", "sea"]}}, "required": ["at"]},
        },
    }
]


def test_tools(llm: LLM) -> None:
    result = llm.generate(CHAT, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, max_new_tokens=200)
    (call,) = result.tool_calls
    assert call.name == "look"
    assert json.loads(call.arguments)["at"] in {"sky", "sea"}
    assert result.text == ""
    chunks = list(llm.stream(CHAT, tools=TOOLS, tool_choice="required", parallel_tool_calls=False, max_new_tokens=200))
    deltas = [delta for chunk in chunks for delta in chunk.tool_calls]
    assert "".join(delta.arguments for delta in deltas) == call.arguments
    with pytest.raises(ConfigError, match="go with chat messages"):
        llm.generate(PROMPT, tools=TOOLS)
    with pytest.raises(ConfigError, match="go with chat messages"):
        llm.generate(PROMPT, continue_final_message=True)
    told = llm.generate(CHAT, tools=TOOLS, max_new_tokens=1).usage.prompt_tokens
    assert told > llm.generate(CHAT, tools=TOOLS, tool_choice="none", max_new_tokens=1).usage.prompt_tokens


@pytest.mark.usefixtures("steady")
def test_a_draft_model(llm: LLM, tmp_path: Path) -> None:
    expected = llm.generate([PROMPT, "else"], **SAMPLED)
    with LLM(llm.path, EngineConfig(device="cpu", num_threads=1, max_seq_len=300)) as draft:
        results = llm.generate([PROMPT, "else"], **SAMPLED, draft=draft)
        assert [result.token_ids for result in results] == [result.token_ids for result in expected]
        assert all(result.drafts is not None and result.drafts.num_drafted for result in results)
        assert draft._runner.cache.rows == ()
        with pytest.raises(ConfigError, match="draft cannot be had with num_beams"):
            llm.generate(PROMPT, draft=draft, num_beams=2)
        with pytest.raises(ConfigError, match="draft and speculative='prompt_lookup': one of them drafts"):
            llm.generate(PROMPT, draft=draft, speculative="prompt_lookup")
    with pytest.raises(ConfigError, match="closed"):
        llm.generate(PROMPT, draft=draft)
    with pytest.raises(ConfigError, match="draft is this model itself"):
        llm.generate(PROMPT, draft=llm)


def test_two_models_that_draft_for_each_other_in_two_threads(llm: LLM) -> None:
    options = {"max_new_tokens": 60, "ignore_eos": True}
    expected = llm.generate(TOKENS, **options).token_ids
    with LLM(llm.path, EngineConfig(device="cpu", num_threads=1, max_seq_len=300)) as other:
        with ThreadPoolExecutor(2) as pool:
            for _ in range(3):
                both = [pool.submit(llm.generate, TOKENS, draft=other, **options)]
                both.append(pool.submit(other.generate, TOKENS, draft=llm, **options))
                assert [each.result(timeout=30).token_ids for each in both] == [expected, expected]
        for model in (llm, other):
            model.logits([1])  # who comes next frees what was left
            assert model._runner.cache.rows == ()


@pytest.mark.usefixtures("steady")
def test_a_draft_models_own_texts_come_first(llm: LLM) -> None:
    """The text is longer than what is made ahead of its reader, so that it runs on when it is read."""
    options = {"max_new_tokens": 240, "ignore_eos": True}
    expected = llm.generate(TOKENS, **options).token_ids
    with LLM(llm.path, EngineConfig(device="cpu", num_threads=1, max_seq_len=300, max_batch=1)) as draft:
        stream = llm.stream(TOKENS, draft=draft, **options)
        pieces = [next(stream)]
        until_paused(llm)
        assert draft._runner.cache.rows != ()
        assert draft.generate(TOKENS, max_new_tokens=130, ignore_eos=True).finish_reason == "length"
        assert draft._runner.cache.rows == ()
        own = draft.stream(TOKENS, **options)
        next(own)
        until_paused(draft)
        pieces += [next(stream) for _ in range(MAX_UNREAD)]
        until_paused(llm)
        assert len(draft._runner.cache.rows) == 1, "nothing is drafted while it has a text"
        own.close()
        draft.loop.settle()
        pieces += stream
        assert [token for piece in pieces for token in piece.token_ids] == expected
        assert pieces[-1].result is not None
        assert pieces[-1].result.drafts is not None
        assert pieces[-1].result.drafts.num_accepted > 10
        draft.loop.settle()
        assert draft._runner.cache.rows == ()


def until_paused(llm: LLM) -> None:
    """Wait for the only text's reader to be far behind."""
    deadline = time.monotonic() + 30
    while not llm.engine.running or not llm.engine.running[0].is_paused:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.usefixtures("steady")
def test_a_draft_model_that_is_closed_meanwhile_changes_no_text(llm: LLM) -> None:
    options = {"max_new_tokens": 240, "ignore_eos": True}
    expected = llm.generate(TOKENS, **options).token_ids
    draft = LLM(llm.path, EngineConfig(device="cpu", num_threads=1, max_seq_len=300))
    stream = llm.stream(TOKENS, draft=draft, **options)
    pieces = [next(stream)]
    until_paused(llm)
    assert draft._runner.cache.rows != ()
    draft.close()
    pieces += stream
    assert [token for piece in pieces for token in piece.token_ids] == expected
    with pytest.raises(ConfigError, match="the draft model is closed"):
        llm.generate(TOKENS, draft=draft)


def test_everything_at_once_and_beside_others(llm: LLM) -> None:
    """A request with many options says the same alone and among others with different ones."""
    many = {**SAMPLED, "top_p": 0.8, "top_k": 30, "min_p": 0.01, "repetition_penalty": 1.2, "dry_multiplier": 0.8}
    alone = llm.generate(PROMPT, **many, n=2)
    llm_streams = [llm.stream("x" * length, **{**FREE, "max_new_tokens": 40}) for length in (1, 20)]
    for stream in llm_streams:
        next(stream)
    beside = llm.generate(PROMPT, **many, n=2)
    assert [choice.token_ids for choice in beside.choices] == [choice.token_ids for choice in alone.choices]
    for stream in llm_streams:
        stream.close()


def test_asyncio(llm: LLM) -> None:
    async def text_of(model: AsyncLLM, seed: int) -> tuple[str, Chunk]:
        stream = await model.submit(PROMPT, **{**SAMPLED, "seed": seed})
        chunks = [chunk async for chunk in stream]
        return "".join(chunk.text for chunk in chunks), chunks[-1]

    async def main() -> None:
        model = AsyncLLM(llm)
        try:
            assert llm.generate(PROMPT, **SAMPLED).text == expected[3]
            with pytest.raises(ConfigError, match="unknown generation option"):
                await model.submit(PROMPT, colour=1)
            results = await asyncio.gather(*(text_of(model, seed) for seed in range(8)))
            for seed, (text, last) in enumerate(results):
                assert last.result is not None
                assert last.result.text == text == expected[seed]
            left = await model.submit(PROMPT, max_new_tokens=200, ignore_eos=True)
            async for _ in left:
                break
            assert await model.drain(10)
        finally:
            model.close()

    expected = [llm.generate(PROMPT, **{**SAMPLED, "seed": seed}).text for seed in range(8)]
    asyncio.run(main())
    assert llm.generate(PROMPT, **SAMPLED).text == expected[3]


@pytest.mark.usefixtures("steady")
def test_asyncio_with_a_draft_model(llm: LLM) -> None:
    async def main(draft: LLM) -> list[Chunk]:
        model = AsyncLLM(llm)
        try:
            return [chunk async for chunk in await model.submit(PROMPT, **SAMPLED, draft=draft)]
        finally:
            model.close()

    expected = llm.generate(PROMPT, **SAMPLED).token_ids
    with LLM(llm.path, EngineConfig(device="cpu", num_threads=1, max_seq_len=300)) as draft:
        chunks = asyncio.run(main(draft))
        assert [token for chunk in chunks for token in chunk.token_ids] == expected
        assert chunks[-1].result is not None
        assert chunks[-1].result.drafts is not None
        assert chunks[-1].result.drafts.num_drafted


@pytest.mark.usefixtures("steady")
@pytest.mark.parametrize("length", [1, 4])
def test_drafts_are_no_longer_than_asked_for(llm: LLM, monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    asked: list[int] = []

    def propose(self: ModelProposer, tokens: Sequence[int], max_tokens: int) -> Sequence[int]:
        asked.append(max_tokens)
        return original(self, tokens, max_tokens)

    original = ModelProposer.propose
    monkeypatch.setattr(ModelProposer, "propose", propose)
    with LLM(llm.path, EngineConfig(device="cpu", num_threads=1, max_seq_len=300)) as draft:
        llm.generate(PROMPT, max_new_tokens=60, ignore_eos=True, draft=draft, draft_length=length)
    assert max(asked) == length
