"""A loaded model: every kind of prompt, streams, stops, threads, the prefix cache, closing, bad input."""

from __future__ import annotations

import gc
import itertools
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from genai.config import EngineConfig
from genai.engine.sequence import TokenEvent
from genai.errors import CapacityError, ConfigError, GenAIError, GraphRunError, TokenizerError
from genai.llm.llm import LLM, load
from genai.llm.results import Chunk, Generation
from genai.llm.writer import JobWriter
from genai.options.generation_config import GenerationConfig, SamplingConfig
from tests.tiny_package import END_ID, VOCAB_SIZE, tiny_package

CONFIG = EngineConfig(device="cpu", num_threads=1, max_seq_len=1024, prefix_cache_bytes=0)
CHAT = [{"role": "system", "content": "Be brief, be kind, be right."}, {"role": "user", "content": "Grüße!"}]


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_package(tmp_path_factory.mktemp("package"))


@pytest.fixture(scope="module")
def llm(package: Path) -> Iterator[LLM]:
    with LLM(package, CONFIG) as llm:
        yield llm


@pytest.fixture(autouse=True)
def nothing_is_left(llm: LLM) -> Iterator[None]:
    """Every test of the shared model leaves it without rows."""
    yield
    llm.loop.settle()
    assert not llm.engine.has_work
    assert llm._runner.cache.rows == ()


def texts(results: list[Generation]) -> list[str]:
    return [result.text for result in results]


def joined(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def test_a_begun_answer_goes_on_as_it_would_have(llm: LLM) -> None:
    letters = {"temperature": 0, "allowed_token_ids": list(range(ord(" "), ord("z")))}
    whole = llm.generate(CHAT, max_new_tokens=20, **letters)
    begun = [*CHAT, {"role": "assistant", "content": whole.text[:8]}]
    rest = llm.generate(begun, max_new_tokens=12, continue_final_message=True, **letters)
    assert whole.text[:8] + rest.text == whole.text
    assert rest.usage.prompt_tokens == whole.usage.prompt_tokens + 8
    assert llm.generate(begun, max_new_tokens=1, **letters).usage.prompt_tokens > rest.usage.prompt_tokens
    with pytest.raises(TokenizerError, match="only an assistant's message"):
        llm.generate(CHAT, continue_final_message=True)


def test_every_kind_of_prompt_and_lists_of_them(llm: LLM) -> None:
    ids = list(b"hello")
    by_text = llm.generate("hello", max_new_tokens=20)
    assert by_text.usage.prompt_tokens == 5
    assert by_text.usage.completion_tokens == 20
    assert llm.generate(ids, max_new_tokens=20).text == by_text.text
    assert llm.generate(tuple(ids), max_new_tokens=20).text == by_text.text
    chat = llm.generate(CHAT, max_new_tokens=20)
    assert chat.usage.prompt_tokens == len(llm.tokenizer.apply_chat_template(CHAT))
    assert texts(llm.generate(["hello", "x"], max_new_tokens=20))[0] == by_text.text
    assert texts(llm.generate([ids, [1]], max_new_tokens=20))[0] == by_text.text
    mixed = llm.generate([CHAT, "hello", ids], max_new_tokens=20)
    assert texts(mixed) == [chat.text, by_text.text, by_text.text]
    assert len(llm.generate(["hello"], max_new_tokens=2)) == 1


def test_numbers_of_numpy_are_numbers(llm: LLM) -> None:
    expected = llm.generate([1, 2, 3], max_new_tokens=9, temperature=1.0, seed=5).token_ids
    options = {"max_new_tokens": np.int64(9), "temperature": np.float32(1.0), "seed": np.uint32(5)}
    for prompt in (np.array([1, 2, 3]), list(np.array([1, 2, 3], np.int32)), np.array([1, 2, 3], np.uint8)):
        result = llm.generate(prompt, None, **options)
        assert result.token_ids == expected
        assert all(type(token) is int for token in result.token_ids)
    assert [each.token_ids for each in llm.generate(np.array([[1, 2, 3], [1, 2, 3]]), None, **options)] == [
        expected
    ] * 2


@pytest.mark.parametrize("options", [{}, {"temperature": 1.2, "seed": 4}, {"top_p": 0.9, "seed": 4, "stop": "a"}])
def test_streamed_is_whole(llm: LLM, options: dict[str, object]) -> None:
    whole = llm.generate("hello", max_new_tokens=150, **options)
    chunks = list(llm.stream("hello", max_new_tokens=150, **options))
    assert joined(chunks) == whole.text
    assert [token for chunk in chunks for token in chunk.token_ids] == whole.token_ids
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == [whole.finish_reason]
    assert [chunk.result for chunk in chunks[:-1]] == [None] * (len(chunks) - 1)
    result = chunks[-1].result
    assert result is not None
    assert (result.text, result.token_ids) == (whole.text, whole.token_ids)


def readable(llm: LLM, num_tokens: int = 120) -> tuple[dict[str, object], str]:
    """Options under which the model writes a text with something to stop at, and the text."""
    for seed in range(100):
        options = {"max_new_tokens": num_tokens, "temperature": 1.0, "seed": seed, "ignore_eos": True}
        text = llm.generate("hello", None, **options).text
        if all(text.count(text[end - 4 : end]) == 1 and text[end - 4 : end].isascii() for end in (60, 80)):
            return options, text
    pytest.fail("no seed gives such a text")


def test_stop_strings_end_a_text_before_them(llm: LLM) -> None:
    options, text = readable(llm)
    late, early = text[76:80], text[56:60]
    for stop in (early, (late, early), [late, early, "never there"]):
        result = llm.generate("hello", None, **options, stop=stop)
        assert (result.text, result.finish_reason) == (text[:56], "stop")
        assert result.usage.completion_tokens == len(result.token_ids) < 120
        chunks = list(llm.stream("hello", None, **options, stop=stop))
        assert joined(chunks) == text[:56]


def test_a_stop_string_at_the_last_token_is_a_stop_and_one_too_late_is_not(llm: LLM) -> None:
    options, text = readable(llm)
    num_tokens = len(llm.generate("hello", None, **options, stop=text[56:60]).token_ids)
    at_limit = llm.generate("hello", None, **{**options, "max_new_tokens": num_tokens}, stop=text[56:60])
    assert (at_limit.text, at_limit.finish_reason) == (text[:56], "stop")
    too_late = llm.generate("hello", None, **{**options, "max_new_tokens": num_tokens - 1}, stop=text[56:60])
    assert (too_late.text, too_late.finish_reason) == (text[:59], "length")


def test_end_of_sequence_tokens(llm: LLM) -> None:
    whole = llm.generate("hello", max_new_tokens=40, ignore_eos=True).token_ids
    end = whole[10]
    for options in ({"eos_token_ids": (end,)}, {"stop_token_ids": (end,)}, {"stop_token_ids": end, "ignore_eos": True}):
        stopped = llm.generate("hello", max_new_tokens=40, **options)
        assert stopped.finish_reason == "stop"
        assert stopped.token_ids == whole[: whole.index(end) + 1]
        assert stopped.text == llm.tokenizer.decode(whole[: whole.index(end)])
    assert llm.generate("hello", max_new_tokens=40, eos_token_ids=(end,), ignore_eos=True).token_ids == whole
    late = llm.generate("hello", max_new_tokens=40, stop_token_ids=(end,), ignore_eos=True, min_new_tokens=20)
    assert end not in late.token_ids[:20]
    for name in ("eos_token_ids", "stop_token_ids"):
        with pytest.raises(ConfigError, match=f"{name}: token id 9999 is outside the vocabulary"):
            llm.generate("hello", **{name: 9999})


def test_the_packages_own_end_and_defaults(tmp_path: Path) -> None:
    package = tiny_package(tmp_path, do_sample=True, temperature=30.0, top_k=40)
    with LLM(package, CONFIG) as llm:
        ends = 0
        for seed in range(8):
            result = llm.generate("hello", seed=seed, max_new_tokens=400)
            ends += result.finish_reason == "stop"
            assert (END_ID in result.token_ids) == (result.finish_reason == "stop")
        assert ends > 0
        assert llm.generate("hello", max_new_tokens=5).text != llm.generate("hello", max_new_tokens=5).text
        greedy = llm.generate("hello", GenerationConfig(max_new_tokens=5))
        assert greedy.text == llm.generate("hello", max_new_tokens=5, temperature=0).text, "a config replaces defaults"


def test_a_config_and_options_on_top(llm: LLM) -> None:
    config = GenerationConfig(max_new_tokens=7, sampling_config=SamplingConfig(do_sample=True, rng_seed=3))
    assert len(llm.generate("a", config).token_ids) == 7
    assert llm.generate("a", config).text == llm.generate("a", max_new_tokens=7, seed=3).text
    assert len(llm.generate("a", config, max_new_tokens=3).token_ids) == 3
    assert len(list(llm.stream("a", config, max_new_tokens=3))) == 3


def test_without_a_limit_a_text_fills_the_context(package: Path) -> None:
    with LLM(package, EngineConfig(device="cpu", num_threads=1, max_seq_len=64)) as llm:
        result = llm.generate("hello", ignore_eos=True)
        assert (result.finish_reason, len(result.token_ids)) == ("length", 59)


@pytest.mark.parametrize("num_taken", [0, 1, 3])
@pytest.mark.parametrize("is_closed", [True, False])
def test_a_stream_that_is_left_frees_its_row(llm: LLM, num_taken: int, is_closed: bool) -> None:
    stream = llm.stream("hello", max_new_tokens=500)
    for _ in range(num_taken):
        next(stream)
    if is_closed:
        stream.close()
    del stream
    llm.loop.settle()
    assert llm._runner.cache.rows == ()
    assert not llm.engine.has_work


@pytest.mark.parametrize("seed", range(12))
def test_texts_side_by_side_are_streamed_whole_up_to_their_stops(llm: LLM, seed: int) -> None:
    """A stop may let go of text that was held back for another one."""
    options: dict[str, object] = {"n": 3, "temperature": 1.5, "seed": seed, "max_new_tokens": 40, "ignore_eos": True}
    text = llm.generate("hello", **options).choices[0].text
    stops = [text[9:12] + "and more", text[12:13]]
    chunks = list(llm.stream("hello", stop_strings=stops, **options))
    result = chunks[-1].result
    assert result is not None
    assert any(choice.stop_string is not None for choice in result.choices)
    for choice in result.choices:
        assert joined([chunk for chunk in chunks if chunk.index == choice.index]) == choice.text


def test_a_stream_collected_in_the_middle_of_a_step_does_no_harm(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Garbage is collected anywhere: freeing a row there would move others under the step."""
    options = {"max_new_tokens": 200, "ignore_eos": True}
    expected = [llm.generate(text, **options).text for text in ("one", "two")]
    accept = JobWriter.accept
    freed: list[int] = []

    def collecting(writer: JobWriter, event: TokenEvent) -> bool:
        if not freed:
            rows = llm._runner.cache.rows
            gc.collect()
            freed.append(len(rows) - len(llm._runner.cache.rows))
        return accept(writer, event)

    cycle: list[object] = [llm.stream("lost", max_new_tokens=500, ignore_eos=True)]
    cycle.append(cycle)
    streams = [llm.stream(text, **options) for text in ("one", "two")]
    deadline = time.monotonic() + 30
    while [each.is_paused for each in llm.engine.running] != [True] * 3:
        assert time.monotonic() < deadline
        time.sleep(0.001)
    lost = next(each for each in llm.engine.running if bytes(each.tokens[:4]) == b"lost")
    monkeypatch.setattr(JobWriter, "accept", collecting)
    gc.disable()
    try:
        del cycle
        results = [joined(list(stream)) for stream in streams]
    finally:
        gc.enable()
    assert results == expected
    assert freed == [0], "no row is freed while a step runs"
    assert lost.finish_reason == "cancelled", "but soon after"


def test_streams_side_by_side_are_each_as_alone(llm: LLM) -> None:
    prompts = ["one", "two two", "three three three"]
    expected = [llm.generate(prompt, max_new_tokens=40).text for prompt in prompts]
    streams = [llm.stream(prompt, max_new_tokens=40) for prompt in prompts]
    pieces: list[list[Chunk]] = [[] for _ in prompts]
    while streams:
        for stream, taken in zip(streams, pieces, strict=True):
            taken.extend(itertools.islice(stream, 1))
        if all(taken and taken[-1].finish_reason for taken in pieces):
            break
    assert [joined(taken) for taken in pieces] == expected


def test_threads_get_the_texts_that_they_get_alone(llm: LLM) -> None:
    prompts = [f"number {n}" for n in range(6)]
    options = {"max_new_tokens": 60, "temperature": 1.0, "seed": 9}
    expected = [llm.generate(prompt, None, **options).text for prompt in prompts]
    results: dict[int, str] = {}

    def generate(n: int) -> None:
        results[n] = llm.generate(prompts[n], None, **options).text

    def stream(n: int) -> None:
        results[n] = joined(list(llm.stream(prompts[n], None, **options)))

    for _ in range(3):
        results.clear()
        run_together([lambda n=n: (generate if n % 2 else stream)(n) for n in range(6)])  # type: ignore[misc]
        assert [results[n] for n in range(6)] == expected


def test_a_long_text_in_one_thread_does_not_hold_up_a_stream_in_another(llm: LLM) -> None:
    ended: list[str] = []

    def long() -> None:
        llm.generate("long", max_new_tokens=900, ignore_eos=True)
        ended.append("long")

    def short() -> None:
        time.sleep(0.05)
        assert len(list(llm.stream("short", max_new_tokens=50, ignore_eos=True))) >= 50
        ended.append("short")

    run_together([long, short])
    assert ended == ["short", "long"]


def run_together(works: list[Callable[[], object]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_logits_are_those_of_every_step(llm: LLM) -> None:
    tokens = list(b"the same numbers, however they are asked for")
    whole = llm.logits(tokens)
    assert whole.shape == (len(tokens), VOCAB_SIZE)
    assert whole.dtype == np.float32
    for end in (1, 2, 17, len(tokens)):
        np.testing.assert_allclose(llm.logits(tokens[:end]), whole[:end], atol=1e-4)
    result = llm.generate(tokens, max_new_tokens=20, logprobs=True)
    assert result.logprobs is not None
    after = llm.logits([*tokens, *result.token_ids])[len(tokens) - 1 : -1]
    assert [int(row.argmax()) for row in after] == result.token_ids
    log_sums = np.log(np.exp(after - after.max(axis=1, keepdims=True)).sum(axis=1))
    expected = [
        row[token] - row.max() - log_sum for row, token, log_sum in zip(after, result.token_ids, log_sums, strict=True)
    ]
    np.testing.assert_allclose([each.logprob for each in result.logprobs], expected, atol=1e-4)
    assert [each.token_id for each in result.logprobs] == result.token_ids
    assert llm.generate("a", max_new_tokens=1).logprobs is None
    np.testing.assert_array_equal(llm.logits(np.array(tokens)), whole)


def test_logits_are_had_beside_texts_that_run(llm: LLM) -> None:
    tokens = list(b"the same numbers")
    alone, text = llm.logits(tokens), llm.generate("hello", max_new_tokens=400, ignore_eos=True).text
    stream = llm.stream("hello", max_new_tokens=400, ignore_eos=True)
    first = next(stream)
    for _ in range(5):
        np.testing.assert_array_equal(llm.logits(tokens), alone)
    assert len(llm.engine.running) == 1, "the text has not ended yet"
    assert joined([first, *stream]) == text


def test_logits_that_find_no_room_are_refused(package: Path) -> None:
    with LLM(package, EngineConfig(device="cpu", num_threads=1, max_batch=1, max_seq_len=256)) as llm:
        stream = llm.stream("hello", ignore_eos=True)
        next(stream)
        with pytest.raises(CapacityError, match="256 tokens find no room beside the texts that run"):
            llm.logits([1] * 256)
        stream.close()
        llm.loop.settle()
        assert llm.logits([1] * 256).shape == (256, VOCAB_SIZE)


def test_a_chat_continues_from_the_prefix_cache_with_the_text_of_a_fresh_model(package: Path) -> None:
    config = EngineConfig(device="cpu", num_threads=1, prefix_cache_bytes=10**7)
    messages = [{"role": "user", "content": "What is a cache for? Tell me in a few words."}]
    with LLM(package, config) as llm:
        first = llm.generate(messages, max_new_tokens=40)
        assert first.usage.cached_tokens == 0
        answer = "".join(letter if letter.isprintable() else "?" for letter in first.text)
        messages += [{"role": "assistant", "content": answer}, {"role": "user", "content": "And then?"}]
        second = llm.generate(messages, max_new_tokens=40)
        again = llm.generate(messages, max_new_tokens=40)
    assert second.usage.cached_tokens >= first.usage.prompt_tokens // 16 * 16
    assert again.usage.cached_tokens == second.usage.prompt_tokens - 1, "the last token is run"
    assert again.text == second.text
    with LLM(package, CONFIG) as fresh:
        cold = fresh.generate(messages, max_new_tokens=40)
    assert cold.usage.cached_tokens == 0
    assert cold.text == second.text


def test_timings_add_up(llm: LLM) -> None:
    begun = time.perf_counter()
    result = llm.generate("hello " * 40, max_new_tokens=50)
    elapsed = time.perf_counter() - begun
    timings = result.timings
    assert 0 <= timings.queue_seconds <= timings.time_to_first_token <= timings.total_seconds <= elapsed
    assert timings.prefill_seconds > 0
    assert timings.queue_seconds + timings.prefill_seconds == pytest.approx(timings.time_to_first_token)
    assert timings.time_to_first_token + timings.decode_seconds <= timings.total_seconds
    assert timings.tokens_per_second == pytest.approx(49 / timings.decode_seconds)
    assert timings.num_preemptions == 0


def test_deadlines_and_priorities(package: Path) -> None:
    with LLM(package, EngineConfig(device="cpu", num_threads=1, max_batch=1)) as llm:
        for timeout in (0.05, 0.5, 5.0):  # where there is no token in so long, 4000 take longer than the next
            late = llm.generate("hello", max_new_tokens=4000, ignore_eos=True, timeout=timeout)
            assert late.finish_reason == "timeout"
            if late.token_ids:
                break
        assert 0 < len(late.token_ids) < 4000
        assert late.text == llm.tokenizer.decode(late.token_ids)
        assert llm.generate("hello", timeout=0.0).finish_reason == "timeout"
        chunks = list(llm.stream("hello", timeout=0.05, ignore_eos=True))
        assert chunks[-1].finish_reason == "timeout"
        busy = llm.stream("y", max_new_tokens=500, ignore_eos=True)
        low, high = (llm.stream("x", max_new_tokens=20, ignore_eos=True, priority=n) for n in (1, 0))
        busy.close()
        after, before = (next(chunk.result for chunk in stream if chunk.result) for stream in (low, high))
        assert before.timings.queue_seconds < after.timings.queue_seconds, "lower runs first"


@pytest.mark.parametrize(
    "options", [{"timeout": -1.0}, {"timeout": "5"}, {"timeout": float("nan")}, {"priority": "high"}]
)
def test_bad_deadlines_and_priorities(llm: LLM, options: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(options))):
        llm.generate("hello", None, **options)


BAD_PROMPTS = [
    (None, "a prompt is"),
    (5, "a prompt is"),
    (2.5, "a prompt is"),
    (b"bytes", "a prompt is"),
    ({"role": "user", "content": "one message"}, "a prompt is"),
    ([], "the prompt is empty"),
    ("", "no tokens"),
    ([[]], "the prompt is empty|no tokens"),
    ([1.5], "a prompt is"),
    ([1, "a"], "a prompt is"),
    ([1, None], "a prompt is"),
    ([{"role": "user", "content": "a"}, "b"], "a prompt is"),
    (["a", 5], "a prompt is"),
    ([True, False], "a prompt is"),
    ([VOCAB_SIZE], f"token id {VOCAB_SIZE} is outside the vocabulary"),
    ([-1], "token id -1 is outside the vocabulary"),
    ([1] * 1024, "1024 tokens; at most 1023 leave room"),
    (["fine", [1] * 1024], "1024 tokens; at most 1023 leave room"),
    ((letter for letter in "abc"), "a prompt is"),
    (np.array([1.5]), "a prompt is"),
    (np.zeros((0,), np.int64), "the prompt is empty"),
]


@pytest.mark.parametrize(("prompt", "message"), BAD_PROMPTS, ids=[repr(prompt)[:30] for prompt, _ in BAD_PROMPTS])
def test_bad_prompts_are_refused(llm: LLM, prompt: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        llm.generate(prompt, max_new_tokens=5)  # type: ignore[call-overload]
    if not isinstance(prompt, list) or all(isinstance(item, int) for item in prompt):
        with pytest.raises(ConfigError):
            llm.stream(prompt, max_new_tokens=5)  # type: ignore[arg-type]


def test_other_bad_input(llm: LLM) -> None:
    with pytest.raises(ConfigError, match="stream takes one prompt"):
        llm.stream(["a", "b"])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="unknown generation option 'max_words'"):
        llm.generate("a", max_words=5)
    with pytest.raises(ConfigError, match=r"max_new_tokens=2\.5"):
        llm.generate("a", max_new_tokens=2.5)
    with pytest.raises(TokenizerError, match="no role"):
        llm.generate([{"content": "a"}])
    with pytest.raises(TokenizerError, match="lone surrogate"):
        llm.generate("\ud800")


@pytest.mark.parametrize(
    ("tokens", "error"),
    [([], ConfigError), ([-1], ConfigError), ([VOCAB_SIZE], ConfigError), ("abc", ConfigError), ([1.5], ConfigError),
     (5, ConfigError), ([[1, 2]], ConfigError), ([1] * 1025, CapacityError)],
)  # fmt: skip
def test_bad_logits(llm: LLM, tokens: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        llm.logits(tokens)  # type: ignore[arg-type]


def test_logits_beyond_the_context_are_refused_though_the_arena_would_hold_them(tmp_path: Path) -> None:
    package = tiny_package(tmp_path, max_position=128)
    with LLM(package, EngineConfig(device="cpu", num_threads=1)) as llm:
        assert llm.logits([1] * 128).shape == (128, VOCAB_SIZE)
        with pytest.raises(CapacityError, match="129 tokens; at most 128"):
            llm.logits([1] * 129)


def test_content_in_typed_parts_is_its_text(llm: LLM) -> None:
    content = CHAT[-1]["content"]
    parts = [{"type": "text", "text": content[:1]}, {"type": "text", "text": content[1:]}]
    expected = llm.generate(CHAT, max_new_tokens=4)
    result = llm.generate([*CHAT[:-1], {**CHAT[-1], "content": parts}], max_new_tokens=4)
    assert (result.token_ids, result.usage) == (expected.token_ids, expected.usage)
    with pytest.raises(TokenizerError, match="message 0"):
        llm.generate([{"role": "user", "content": [{"type": "video"}]}])


def test_a_package_without_template(tmp_path: Path) -> None:
    with LLM(tiny_package(tmp_path, has_template=False), CONFIG) as llm:
        with pytest.raises(TokenizerError, match="no chat template"):
            llm.generate(CHAT)
        assert llm.generate("a", max_new_tokens=2).usage.completion_tokens == 2


def failing(llm: LLM, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Let the graph fail once, after some runs."""
    run, count = llm._runner._session.run, [0]

    def fail_once(binding: object) -> None:
        count[0] += 1
        if count[0] == after:
            raise GraphRunError("ONNX Runtime failed: out of luck")
        run(binding)  # type: ignore[arg-type]

    monkeypatch.setattr(llm._runner._session, "run", fail_once)


@pytest.mark.parametrize("after", [1, 2, 7])
def test_a_failed_run_is_raised_and_the_model_goes_on(llm: LLM, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    expected = llm.generate("hello", max_new_tokens=20).text
    failing(llm, monkeypatch, after)
    with pytest.raises(GraphRunError, match="out of luck"):
        llm.generate(["hello", "world"], max_new_tokens=20)
    assert llm._runner.cache.rows == ()
    assert llm.generate("hello", max_new_tokens=20).text == expected
    monkeypatch.undo()
    failing(llm, monkeypatch, after)
    stream, pieces = llm.stream("hello", max_new_tokens=20), []
    with pytest.raises(GraphRunError, match="out of luck"):
        pieces.extend(stream)
    monkeypatch.undo()
    assert expected.startswith(joined(pieces))


def test_a_failed_run_of_one_thread_leaves_the_other_its_text(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever steps runs all texts; each thread gets its own text or its own error."""
    expected = llm.generate("hello", max_new_tokens=200, ignore_eos=True).text
    failing(llm, monkeypatch, 150)
    results: list[str] = []

    def generate() -> None:
        try:
            results.append(llm.generate("hello", max_new_tokens=200, ignore_eos=True).text)
        except GraphRunError:
            results.append("failed")

    run_together([generate] * 3)
    assert len(results) == 3
    assert set(results) <= {"failed", expected}
    assert "failed" in results


def test_closing(package: Path) -> None:
    llm = LLM(package, CONFIG)
    text = llm.generate("hello", max_new_tokens=900, ignore_eos=True).text
    stream = llm.stream("hello", max_new_tokens=900, ignore_eos=True)
    first = next(stream)
    llm.close()
    llm.close()
    pieces = [first]
    with pytest.raises(ConfigError, match="this model was closed before the text had ended"):
        pieces.extend(stream)
    assert text.startswith(joined(pieces))
    uses: list[Callable[[], object]] = [
        lambda: llm.generate("hello"),
        lambda: llm.generate(["hello"]),
        lambda: llm.stream("hello"),
        lambda: llm.logits([1]),
        lambda: llm.engine,
    ]
    for use in uses:
        with pytest.raises(ConfigError, match="this model is closed; load it again"):
            use()
    stream.close()


def test_closing_under_a_thread_that_generates_ends_its_text(package: Path) -> None:
    for delay in (0.0, 0.01, 0.03):
        llm = LLM(package, CONFIG)
        outcome: list[str] = []

        def generate(llm: LLM = llm, outcome: list[str] = outcome) -> None:
            try:
                outcome.append(llm.generate("hello", ignore_eos=True, max_new_tokens=1000).finish_reason)
            except ConfigError as error:
                outcome.append(str(error))

        thread = threading.Thread(target=generate)
        thread.start()
        time.sleep(delay)
        llm.close()
        thread.join(5)
        assert not thread.is_alive()
        assert "closed" in outcome[0]


@pytest.mark.long
def test_memory_is_given_back_when_a_model_is_closed(package: Path) -> None:
    import psutil

    process = psutil.Process()

    def use() -> int:
        with LLM(package, EngineConfig(device="cpu", num_threads=1, kv_cache_bytes=64 * 2**20)) as llm:
            llm.generate([[n] * 200 for n in range(8)], max_new_tokens=8)
        gc.collect()
        return process.memory_info().rss

    first = [use() for _ in range(3)][-1]
    assert [use() for _ in range(6)][-1] < first + 40 * 2**20


def test_load_takes_a_folder_and_engine_options(package: Path) -> None:
    with load(package, device="cpu", num_threads=1, max_batch=2, max_seq_len=99) as llm:
        assert llm.max_seq_len == 99
        assert llm.engine_config.max_batch == 2
        assert llm.generate("a", max_new_tokens=3).usage.completion_tokens == 3
    with pytest.raises(ConfigError, match="unknown option 'max_batches'"):
        load(package, max_batches=2)
    with pytest.raises(GenAIError, match="no model"):
        load(package / "nowhere")


def test_many_prompts_through_few_rows(package: Path) -> None:
    """More prompts than rows and memory: they wait, give way and resume, and each text is as it is alone."""
    prompts = [f"{n} " * (n + 1) for n in range(20)]
    with LLM(package, CONFIG) as roomy:
        expected = [roomy.generate(prompt, max_new_tokens=110).text for prompt in prompts]
        token_bytes = roomy._runner.cache.shape.bytes_per_token
    small = EngineConfig(device="cpu", num_threads=1, max_batch=3, max_seq_len=200, kv_cache_bytes=240 * token_bytes)
    with LLM(package, small) as llm:
        results = llm.generate(prompts, max_new_tokens=110)
    assert texts(results) == expected
    assert sum(result.timings.num_preemptions for result in results) > 0
