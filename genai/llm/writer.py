"""A job's tokens turned into text: pieces as they come, and the whole at the end.

token ──► detokenizer ──► stop strings ──► answer parser (reasoning, content, tool calls) ──► Chunk
"""

from __future__ import annotations

from collections import abc, deque
from dataclasses import replace

from genai.answer.answer import AnswerDelta, AnswerParser
from genai.answer.stop import StopStrings
from genai.engine.sequence import Job, Sequence, TokenEvent
from genai.llm.results import Choice, Chunk, Drafts, Generation, Timings, Usage
from genai.options.generation_config import GenerationConfig
from genai.tokenizer.detokenizer import IncrementalDetokenizer


class TextWriter:
    """One sequence's tokens to text: detokenizes, watches for stop strings, and tells the answer's parts apart.

    parser: None for plain text; prefix: what the text begins with (`echo`).
    """

    def __init__(
        self,
        detokenizer: IncrementalDetokenizer,
        config: GenerationConfig,
        *,
        parser: AnswerParser | None = None,
        prefix: str = "",
    ) -> None:
        self._detokenizer = detokenizer
        self._stops = StopStrings(config.stop_strings)
        self._parser = parser
        self._prefix = prefix
        self._deltas: list[AnswerDelta] = []

    def write(self, event: TokenEvent) -> tuple[AnswerDelta, bool]:
        """What an event adds, and whether a stop string or the end of the calls ends the text there.

        End-of-sequence tokens add no text.
        """
        token, reason = event.token, event.finish_reason
        text, is_stopped = "", False
        if token is not None and not _is_end(event):
            text, is_stopped = self._stops.push(self._detokenizer.push(token))
        if reason is not None and not is_stopped:
            tail, is_stopped = self._stops.push(self._detokenizer.finish())
            text += tail if is_stopped else tail + self._stops.finish()
        delta = self._parsed(text, is_last=is_stopped or reason is not None)
        self._deltas.append(delta)
        return delta, is_stopped or self._is_over

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
            has_end_token=sequence.finish_reason == "stop"
            and not sequence.eos_token_ids.isdisjoint(sequence.generated[-1:]),
        )

    @property
    def _is_over(self) -> bool:
        """Whether the answer has made its calls."""
        return self._parser is not None and self._parser.is_over

    def _parsed(self, text: str, *, is_last: bool) -> AnswerDelta:
        prefix, self._prefix = self._prefix, ""
        if self._parser is None:
            return AnswerDelta(content=prefix + text)
        delta = self._parser.push(text)
        if is_last or self._is_over:
            rest = self._parser.finish()
            delta = AnswerDelta(
                content=delta.content + rest.content,
                reasoning=delta.reasoning + rest.reasoning,
                tool_calls=(*delta.tool_calls, *rest.tool_calls),
            )
        return replace(delta, content=prefix + delta.content) if prefix else delta


class JobWriter:
    """A job's sink: writes each of its texts, and keeps the pieces until they are taken."""

    def __init__(self, writers: abc.Sequence[TextWriter]) -> None:
        """writers: one for each text of the job."""
        self._writers = writers
        self._deltas: dict[int, AnswerDelta] = {}  # of texts whose event is not delivered yet
        self._chunks: deque[Chunk] = deque()

    @property
    def num_unread(self) -> int:
        """Pieces that have not been taken yet."""
        return len(self._chunks)

    def accept(self, event: TokenEvent) -> bool:
        """Write what an event adds; True if a stop string ends the text there."""
        index = event.sequence.index
        self._deltas[index], is_stopped = self._writers[index].write(event)
        return is_stopped

    def deliver(self, event: TokenEvent) -> None:
        """Put the piece that `accept` wrote among those to be taken."""
        delta = self._deltas.pop(event.sequence.index, AnswerDelta())
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
                    has_end_token=_is_end(event),
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


def _is_end(event: TokenEvent) -> bool:
    """Whether an event's token ends the text and is no part of it."""
    return event.finish_reason == "stop" and event.token in event.sequence.eos_token_ids


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
