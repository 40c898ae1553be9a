"""A job's tokens turned into text: pieces as they come, and the whole at the end.

token ──► detokenizer ──► stop strings ──► answer parser (reasoning, content, tool calls) ──► Chunk
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as List
from dataclasses import dataclass, replace

from genai.decoding.logprobs import TokenLogprob
from genai.engine.sequence import FinishReason, Job, Sequence, TokenEvent
from genai.generation_config import GenerationConfig
from genai.text.answer import AnswerDelta, AnswerParser
from genai.text.stop import StopStrings
from genai.text.tokenizer import Tokenizer
from genai.text.tool_calls import ToolCall, ToolCallDelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts; cached_tokens: prompt tokens whose keys and values were found in the prefix cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds: waiting for a row, from submission to the first token, in prefill, in decoding, and in all.

    tokens_per_second: generated tokens after the first one over the time in decoding, of all texts together.
    """

    queue_seconds: float
    time_to_first_token: float
    prefill_seconds: float
    decode_seconds: float
    total_seconds: float
    tokens_per_second: float
    num_preemptions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drafts:
    """What came of speculation: tokens drafted, and those of them that came true."""

    num_drafted: int
    num_accepted: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One of a request's texts.

    text: without special tokens, reasoning and tool calls, and ending before a stop string; token_ids: everything
    generated; finish_reason: "stop" (end of sequence or a stop string), "length", "cancelled" or "timeout";
    stop_string: the one that ended it; logprobs: one a token, if asked; reasoning: what the model thought before it
    answered; score: of a beam.
    """

    index: int
    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    stop_string: str | None = None
    logprobs: list[TokenLogprob] | None = None
    reasoning: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """What a request gave: its texts (`n`, or the beams asked for; best first), and what is true of all.

    The properties are the first text's. prompt_logprobs: one for each token of the prompt if asked, None for the first.
    """

    choices: list[Choice]
    usage: Usage
    timings: Timings
    prompt_logprobs: list[TokenLogprob | None] | None = None
    drafts: Drafts | None = None

    @property
    def text(self) -> str:
        """The first text."""
        return self.choices[0].text

    @property
    def token_ids(self) -> list[int]:
        """The first text's tokens."""
        return self.choices[0].token_ids

    @property
    def finish_reason(self) -> FinishReason:
        """Why the first text ended."""
        return self.choices[0].finish_reason

    @property
    def logprobs(self) -> list[TokenLogprob] | None:
        """The first text's log probabilities, one a token."""
        return self.choices[0].logprobs

    @property
    def reasoning(self) -> str:
        """What the model thought before the first text."""
        return self.choices[0].reasoning

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The tools that the first text calls."""
        return self.choices[0].tool_calls


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of one of a request's texts.

    index: which of them; finish_reason: on its last piece; result: the whole, on the request's last piece.
    """

    index: int = 0
    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    result: Generation | None = None


class TextWriter:
    """One sequence's tokens to text: detokenizes, watches for stop strings, and tells the answer's parts apart.

    parser: None for plain text; prefix: what the text begins with (`echo`).
    """

    def __init__(
        self,
        tokenizer: Tokenizer,
        config: GenerationConfig,
        *,
        parser: AnswerParser | None = None,
        visible: frozenset[int] = frozenset(),
        prefix: str = "",
    ) -> None:
        self._detokenizer = tokenizer.detokenizer(visible_token_ids=visible)
        self._stops = StopStrings(config.stop_strings)
        self._parser = parser
        self._prefix = prefix
        self._deltas: list[AnswerDelta] = []

    def write(self, event: TokenEvent) -> tuple[AnswerDelta, bool]:
        """What an event adds, and whether a stop string ends the text there. End-of-sequence tokens add no text."""
        token, reason = event.token, event.finish_reason
        text, is_stopped = "", False
        if token is not None and not (reason == "stop" and token in event.sequence.eos_token_ids):
            text, is_stopped = self._stops.push(self._detokenizer.push(token))
        if reason is not None and not is_stopped:
            tail, is_stopped = self._stops.push(self._detokenizer.finish())
            text += tail if is_stopped else tail + self._stops.finish()
        delta = self._parsed(text, is_last=is_stopped or reason is not None)
        self._deltas.append(delta)
        return delta, is_stopped

    def choice(self, sequence: Sequence) -> Choice:
        """The whole text of a sequence that has ended."""
        assert sequence.finish_reason is not None, "the sequence has ended"
        return Choice(
            index=sequence.index,
            text="".join(delta.content for delta in self._deltas),
            token_ids=sequence.generated,
            finish_reason=sequence.finish_reason,
            stop_string=self._stops.matched,
            logprobs=list(sequence.logprobs) if sequence.config.logprobs else None,
            reasoning="".join(delta.reasoning for delta in self._deltas),
            tool_calls=() if self._parser is None else self._parser.tool_calls,
            score=sequence.score,
        )

    def _parsed(self, text: str, *, is_last: bool) -> AnswerDelta:
        prefix, self._prefix = self._prefix, ""
        if self._parser is None:
            return AnswerDelta(content=prefix + text)
        delta = self._parser.push(text)
        if is_last:
            rest = self._parser.finish()
            delta = AnswerDelta(
                content=delta.content + rest.content,
                reasoning=delta.reasoning + rest.reasoning,
                tool_calls=(*delta.tool_calls, *rest.tool_calls),
            )
        return replace(delta, content=prefix + delta.content) if prefix else delta


class JobWriter:
    """A job's sink: writes each of its texts, and keeps the pieces until they are taken."""

    def __init__(self, writers: List[TextWriter]) -> None:
        """writers: one for each text of the job."""
        self._writers = writers
        self._delta = AnswerDelta()
        self._chunks: deque[Chunk] = deque()

    @property
    def num_unread(self) -> int:
        """Pieces that have not been taken yet."""
        return len(self._chunks)

    def accept(self, event: TokenEvent) -> bool:
        """Write what an event adds; True if a stop string ends the text there."""
        self._delta, is_stopped = self._writers[event.sequence.index].write(event)
        return is_stopped

    def deliver(self, event: TokenEvent) -> None:
        """Put the piece that `accept` wrote among those to be taken."""
        delta, self._delta = self._delta, AnswerDelta()
        job, reason = event.sequence.job, event.finish_reason
        assert job is not None, "what runs belongs to a job"
        if reason == "error":
            reason = None  # who reads on meets the error itself
        is_over = reason is not None and job.is_over and job.error is None
        if delta != AnswerDelta() or event.token is not None or reason is not None:
            self._chunks.append(
                Chunk(
                    index=event.sequence.index,
                    text=delta.content,
                    reasoning=delta.reasoning,
                    tool_calls=delta.tool_calls,
                    token_ids=[] if event.token is None else [event.token],
                    logprobs=None if event.logprob is None else [event.logprob],
                    finish_reason=reason,
                    result=self.result(job) if is_over else None,
                )
            )

    def take(self) -> list[Chunk]:
        """The pieces since the last call."""
        chunks = []
        while self._chunks:
            chunks.append(self._chunks.popleft())
        return chunks

    def result(self, job: Job) -> Generation:
        """The texts of a job that is over. Raises: its error, if it failed."""
        if job.error is not None:
            raise job.error
        first = job.sequences[0]
        has_prompt_logprobs = first.config.prompt_logprobs is not None
        return Generation(
            choices=[writer.choice(each) for writer, each in zip(self._writers, job.sequences, strict=True)],
            usage=Usage(
                prompt_tokens=first.num_prompt,
                completion_tokens=sum(len(each.generated) for each in job.sequences),
                cached_tokens=first.num_cached,
            ),
            timings=_timings(job),
            prompt_logprobs=list(first.prompt_logprobs) if has_prompt_logprobs else None,
            drafts=_drafts(job),
        )


def _timings(job: Job) -> Timings:
    lines = [sequence.timeline for sequence in job.sequences]
    line = lines[0]
    finished = max(each.finished for each in lines)
    admitted = line.admitted or finished
    first = min((each.first_token for each in lines if each.first_token), default=finished)
    last = max(each.last_token for each in lines)
    count = sum(len(sequence.generated) for sequence in job.sequences) - len(lines)
    decode_seconds = last - first if count > 0 else 0.0
    return Timings(
        queue_seconds=admitted - line.submitted,
        time_to_first_token=first - line.submitted,
        prefill_seconds=first - admitted,
        decode_seconds=decode_seconds,
        total_seconds=finished - line.submitted,
        tokens_per_second=count / decode_seconds if decode_seconds > 0 else 0.0,
        num_preemptions=sum(each.num_preemptions for each in lines),
    )


def _drafts(job: Job) -> Drafts | None:
    drafters = [sequence.drafter for sequence in job.sequences if sequence.drafter is not None]
    if not drafters:
        return None
    return Drafts(
        num_drafted=sum(drafter.budget.num_drafted for drafter in drafters),
        num_accepted=sum(drafter.budget.num_accepted for drafter in drafters),
    )
