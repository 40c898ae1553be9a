"""One sequence's text: pieces as tokens come, stop strings wherever they are cut, characters in several tokens."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genai.decoding.logprobs import TokenLogprob
from genai.decoding.sampler import Sampler
from genai.engine.consumers import Sample
from genai.engine.sequence import FinishReason, Job, Sequence, State, Timeline, TokenEvent
from genai.errors import GraphRunError
from genai.llm.results import Chunk
from genai.llm.writer import JobWriter, TextWriter
from genai.options.generation_config import GenerationConfig, SamplingConfig
from genai.tokenizer.tokenizer import Tokenizer
from tests.tiny_package import BEGIN_ID, END_ID, byte_tokenizer

PROMPT = [1, 2, 3]
TOKENIZER = Tokenizer(byte_tokenizer(), bos_token_id=None, eos_token_ids=(END_ID,))


def sequence_of(config: GenerationConfig) -> Sequence:
    sequence = Sequence(
        tokens=list(PROMPT),
        num_prompt=len(PROMPT),
        max_tokens=1000,
        config=config,
        eos_token_ids=frozenset() if config.ignore_eos else frozenset({END_ID}),
        sampler=Sampler(SamplingConfig(), [], 1),
        consumer=Sample(),
    )
    sequence.job = Job(sequences=(sequence,))
    return sequence


def job_of(sequence: Sequence) -> Job:
    assert sequence.job is not None
    return sequence.job


def written(
    tokens: list[int], end: FinishReason = "length", *, with_last: bool = True, **options: object
) -> tuple[JobWriter, Sequence]:
    """What a writer makes of tokens, told of them as the engine does; the last one ends the text, or nothing does."""
    config = GenerationConfig().updated(**options)
    writer, sequence = JobWriter([TextWriter(TOKENIZER.detokenizer(), config)]), sequence_of(config)
    for index, token in enumerate(tokens):
        sequence.tokens.append(token)
        is_last = with_last and index == len(tokens) - 1
        reason: FinishReason | None = "stop" if token in sequence.eos_token_ids else end if is_last else None
        if tell(writer, sequence, token, reason):
            return writer, sequence
    if not with_last or not tokens:
        tell(writer, sequence, None, end)
    return writer, sequence


def tell(writer: JobWriter, sequence: Sequence, token: int | None, reason: FinishReason | None) -> bool:
    event = TokenEvent(sequence=sequence, token=token, finish_reason=reason)
    if writer.accept(event):
        reason = "stop"
    if reason is not None:
        sequence.become(State(reason))
    writer.deliver(TokenEvent(sequence=sequence, token=token, finish_reason=reason))
    return reason is not None


def joined(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def test_pieces_come_with_their_tokens_and_the_last_with_the_reason() -> None:
    writer, sequence = written(list(b"abc"))
    assert writer.num_unread == 3
    chunks = writer.take()
    assert [(chunk.text, chunk.token_ids, chunk.finish_reason) for chunk in chunks] == [
        ("a", [97], None),
        ("b", [98], None),
        ("c", [99], "length"),
    ]
    assert writer.num_unread == 0
    assert writer.take() == []
    assert writer.result(job_of(sequence)).text == "abc"


def test_texts_of_a_job_that_end_side_by_side_keep_their_own_pieces() -> None:
    """A text that a stop string ends is delivered after others of its job have been told."""
    config = GenerationConfig(n=2, stop_strings=["abcd", "c"])
    writer = JobWriter([TextWriter(TOKENIZER.detokenizer(), config) for _ in range(2)])
    first, second = sequence_of(config), sequence_of(config)
    second.index = 1
    first.job = second.job = Job(sequences=(first, second))
    for token in b"ab":
        assert not tell(writer, first, token, None)
    assert writer.accept(TokenEvent(sequence=first, token=ord("c"), finish_reason=None))
    assert not tell(writer, second, ord("x"), None)
    writer.deliver(TokenEvent(sequence=first, token=ord("c"), finish_reason="stop"))
    assert [(each.index, each.text) for each in writer.take() if each.text] == [(1, "x"), (0, "ab")]


def test_a_character_in_several_tokens_comes_whole() -> None:
    writer, sequence = written(list("aé🙂z".encode()))
    assert [chunk.text for chunk in writer.take()] == ["a", "", "é", "", "", "", "🙂", "z"]
    assert writer.result(job_of(sequence)).text == "aé🙂z"


def test_half_a_character_at_the_end_is_a_replacement() -> None:
    writer, sequence = written(list("a🙂".encode())[:-1])
    assert [chunk.text for chunk in writer.take()] == ["a", "", "", "\ufffd"]
    assert writer.result(job_of(sequence)).text == "a\ufffd"


@pytest.mark.parametrize("end", ["cancelled", "timeout", "length"])
def test_an_end_without_a_token_flushes_what_was_held_back(end: FinishReason) -> None:
    writer, sequence = written(list("ab🙂".encode())[:-1], end, with_last=False, stop="abc")
    chunks = writer.take()
    assert [chunk.text for chunk in chunks] == ["", "", "", "", "", "ab\ufffd"]
    assert (chunks[-1].token_ids, chunks[-1].finish_reason) == ([], end)
    result = writer.result(job_of(sequence))
    assert (result.text, result.finish_reason) == ("ab\ufffd", end)


def test_a_stop_string_ends_the_text_before_it_and_no_part_of_it_is_shown() -> None:
    writer, sequence = written(list(b"one STOP two"), stop="STOP")
    chunks = writer.take()
    assert joined(chunks) == "one "
    assert chunks[-1].finish_reason == "stop"
    assert writer.result(job_of(sequence)).token_ids == list(b"one STOP")
    for number, chunk in enumerate(chunks):
        assert not chunk.text.endswith("S"), number


def test_a_stop_string_and_a_limit_on_the_same_token_is_a_stop() -> None:
    writer, sequence = written(list(b"one STOP"), "length", stop=("x", "STOP"))
    result = writer.result(job_of(sequence))
    assert (result.text, result.finish_reason) == ("one ", "stop")
    assert result.choices[0].stop_string == "STOP"


def test_the_beginning_of_a_stop_string_at_the_limit_is_shown() -> None:
    writer, sequence = written(list(b"one STO"), "length", stop="STOP")
    assert writer.take()[-1] == Chunk(
        text="STO", token_ids=[ord("O")], finish_reason="length", result=writer.result(job_of(sequence))
    )
    assert writer.result(job_of(sequence)).text == "one STO"


def test_end_of_sequence_adds_no_text_and_flushes() -> None:
    writer, sequence = written([*b"one ST", END_ID], stop="STOP")
    result = writer.result(job_of(sequence))
    assert (result.text, result.finish_reason) == ("one ST", "stop")
    assert result.token_ids == [*b"one ST", END_ID]
    assert joined(writer.take()) == "one ST"


def test_an_ordinary_token_may_end_a_text_without_being_shown() -> None:
    config = GenerationConfig(eos_token_ids=(ord("x"),))
    writer, sequence = JobWriter([TextWriter(TOKENIZER.detokenizer(), config)]), sequence_of(config)
    sequence.eos_token_ids = frozenset({ord("x")})
    tell(writer, sequence, ord("a"), None)
    tell(writer, sequence, ord("x"), "stop")
    assert writer.result(job_of(sequence)).text == "a"


def test_ignored_ends_are_special_tokens_and_not_shown() -> None:
    writer, sequence = written([*b"a", END_ID, BEGIN_ID, *b"b"], ignore_eos=True)
    assert writer.result(job_of(sequence)).text == "ab"


@pytest.mark.parametrize(
    ("tokens", "options", "has_end"),
    [
        ([*b"ab", END_ID], {}, True),
        ([END_ID], {}, True),
        (list(b"ab"), {"stop": ("b",)}, False),
        (list(b"ab"), {}, False),
        ([*b"ab", END_ID], {"ignore_eos": True}, False),
    ],
)
def test_an_end_token_is_told(tokens: list[int], options: dict[str, object], has_end: bool) -> None:
    writer, sequence = written(tokens, **options)
    *before, last = writer.take()
    assert last.has_end_token is has_end
    assert not any(chunk.has_end_token for chunk in before)
    assert writer.result(job_of(sequence)).choices[0].has_end_token is has_end


def test_what_fails_before_it_begins_has_an_end_too() -> None:
    config = GenerationConfig()
    writer, sequence = JobWriter([TextWriter(TOKENIZER.detokenizer(), config)]), sequence_of(config)
    sequence.error = GraphRunError("the graph failed")
    tell(writer, sequence, None, "error")
    assert writer.take() == [], "who reads on meets the error"
    with pytest.raises(GraphRunError, match="the graph failed"):
        writer.result(job_of(sequence))


@given(
    text=st.text(alphabet="ab🙂é\n", max_size=30),
    stops=st.lists(st.text(alphabet="ab🙂é", min_size=1, max_size=4), max_size=3),
)
def test_streamed_is_whole_is_defined(text: str, stops: list[str]) -> None:
    """Whatever the stops: the pieces joined are the text, cut at the stop string that is complete first."""
    tokens = list(text.encode())
    writer, sequence = written(tokens, stop=tuple(stops))
    ends = [(text.find(stop) + len(stop), -len(stop)) for stop in stops if stop in text]
    end, length = min(ends, default=(len(text), 0))
    expected = text[: end + length]
    chunks = writer.take()
    assert joined(chunks) == writer.result(job_of(sequence)).text == expected
    assert sequence.finish_reason == ("stop" if ends else "length")
    assert [token for chunk in chunks for token in chunk.token_ids] == sequence.generated
    assert [chunk.finish_reason is not None for chunk in chunks] == [False] * (len(chunks) - 1) + [True]


@given(tokens=st.lists(st.integers(0, END_ID), max_size=40))
def test_any_tokens_stream_to_what_they_decode_to(tokens: list[int]) -> None:
    writer, sequence = written(tokens, ignore_eos=True)
    expected = bytes(token for token in tokens if token < BEGIN_ID).decode(errors="replace")
    assert joined(writer.take()) == writer.result(job_of(sequence)).text == expected


def test_usage_and_timings() -> None:
    config = GenerationConfig(logprobs=True)
    writer, sequence = JobWriter([TextWriter(TOKENIZER.detokenizer(), config)]), sequence_of(config)
    sequence.num_cached = 2
    for token in b"abc":
        sequence.tokens.append(token)
        sequence.logprobs.append(TokenLogprob(token_id=token, logprob=-0.5))
        tell(writer, sequence, token, None if token != ord("c") else "length")
    sequence.timeline = Timeline(
        submitted=10.0, admitted=11.0, first_token=13.0, last_token=17.0, finished=18.0, num_preemptions=1
    )
    result = writer.result(job_of(sequence))
    assert (result.usage.prompt_tokens, result.usage.completion_tokens, result.usage.cached_tokens) == (3, 3, 2)
    assert [each.logprob for each in result.logprobs or ()] == [-0.5] * 3
    timings = result.timings
    assert (timings.queue_seconds, timings.time_to_first_token, timings.prefill_seconds) == (1.0, 3.0, 2.0)
    assert (timings.decode_seconds, timings.total_seconds, timings.num_preemptions) == (4.0, 8.0, 1)
    assert timings.tokens_per_second == 2 / 4.0


@pytest.mark.parametrize(("admitted", "expected"), [(0.0, (5.0, 5.0, 0.0)), (12.0, (2.0, 5.0, 3.0))])
def test_timings_of_what_never_had_a_token(admitted: float, expected: tuple[float, float, float]) -> None:
    """It waited, or was prefilled, until it ended; nothing is negative."""
    writer, sequence = written([], "timeout")
    sequence.timeline = Timeline(submitted=10.0, admitted=admitted, finished=15.0)
    timings = writer.result(job_of(sequence)).timings
    assert (timings.queue_seconds, timings.time_to_first_token, timings.prefill_seconds) == expected
    assert (timings.decode_seconds, timings.total_seconds, timings.tokens_per_second) == (0.0, 5.0, 0.0)
