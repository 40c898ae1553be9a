"""One sequence's tokens turned into text: pieces as they come, and the whole at the end."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from genai.engine.sequence import FinishReason, Sequence, TokenEvent
from genai.generation_config import GenerationConfig
from genai.text.stop import StopStrings
from genai.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts; cached_tokens: prompt tokens whose keys and values were found in the prefix cache."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds: waiting for a row, from submission to the first token, in prefill, in decoding, and in all.

    tokens_per_second: generated tokens after the first one over the time in decoding.
    """

    queue_seconds: float
    time_to_first_token: float
    prefill_seconds: float
    decode_seconds: float
    total_seconds: float
    tokens_per_second: float
    num_preemptions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A finished text.

    text: without special tokens, and ending before a stop string; token_ids: everything generated; finish_reason:
    "stop" (end of sequence or a stop string), "length", "cancelled" or "timeout"; logprobs: one a token, if asked.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    logprobs: list[float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a text in the making; the last one carries `finish_reason` and the whole `result`."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    result: Generation | None = None


class TextWriter:
    """A sequence's sink: detokenizes, watches for stop strings, and keeps the pieces until they are taken."""

    def __init__(self, tokenizer: Tokenizer, config: GenerationConfig) -> None:
        self.config = config
        self._detokenizer = tokenizer.detokenizer()
        self._stops = StopStrings(config.stop_strings)
        self._text: list[str] = []
        self._piece = ""
        self._chunks: deque[Chunk] = deque()

    @property
    def num_unread(self) -> int:
        """Pieces that have not been taken yet."""
        return len(self._chunks)

    def accept(self, event: TokenEvent) -> bool:
        """Write what an event adds; True if a stop string ends the text there. End-of-sequence tokens add no text."""
        token, reason = event.token, event.finish_reason
        text, is_stopped = "", False
        if token is not None and not (reason == "stop" and token in event.sequence.eos_token_ids):
            text, is_stopped = self._stops.push(self._detokenizer.push(token))
        if reason is not None and not is_stopped:
            tail, is_stopped = self._stops.push(self._detokenizer.finish())
            text += tail if is_stopped else tail + self._stops.finish()
        self._text.append(text)
        self._piece = text
        return is_stopped

    def deliver(self, event: TokenEvent) -> None:
        """Put the piece that `accept` wrote among those to be taken."""
        tokens = [] if event.token is None else [event.token]
        piece, self._piece = self._piece, ""
        if piece or tokens or event.finish_reason:
            self._chunks.append(Chunk(text=piece, token_ids=tokens, finish_reason=event.finish_reason))

    def take(self) -> list[Chunk]:
        """The pieces since the last call; the last of all has its finish reason."""
        chunks = []
        while self._chunks:
            chunks.append(self._chunks.popleft())
        return chunks

    def result(self, sequence: Sequence) -> Generation:
        """The whole text of a sequence that has ended. Raises: its error, if it failed."""
        if sequence.error is not None:
            raise sequence.error
        assert sequence.finish_reason is not None, "the sequence has ended"
        return Generation(
            text="".join(self._text),
            token_ids=sequence.generated,
            finish_reason=sequence.finish_reason,
            usage=Usage(
                prompt_tokens=sequence.num_prompt,
                completion_tokens=len(sequence.generated),
                cached_tokens=sequence.num_cached,
            ),
            timings=_timings(sequence),
            logprobs=list(sequence.logprobs) if sequence.config.logprobs else None,
        )


def _timings(sequence: Sequence) -> Timings:
    line, count = sequence.timeline, len(sequence.generated)
    admitted = line.admitted or line.finished
    first = line.first_token or line.finished
    decode_seconds = line.last_token - first if count > 1 else 0.0
    return Timings(
        queue_seconds=admitted - line.submitted,
        time_to_first_token=first - line.submitted,
        prefill_seconds=first - admitted,
        decode_seconds=decode_seconds,
        total_seconds=line.finished - line.submitted,
        tokens_per_second=(count - 1) / decode_seconds if decode_seconds > 0 else 0.0,
        num_preemptions=line.num_preemptions,
    )
