"""What a request gives: whole texts, pieces of them, and the counts and times beside."""

from __future__ import annotations

from dataclasses import dataclass

from genai.answer.tool_calls import ToolCall, ToolCallDelta
from genai.decoding.logprobs import TokenLogprob
from genai.engine.sequence import FinishReason


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
    answered; score: of a beam; has_end_token: whether the last token ended the text and is no part of it.
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
    has_end_token: bool = False


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

    index: which of them; finish_reason: on its last piece; has_end_token: whether its token ended the text and is no
    part of it; result: the whole, on the request's last piece.
    """

    index: int = 0
    text: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()
    token_ids: list[int]
    logprobs: list[TokenLogprob] | None = None
    finish_reason: FinishReason | None = None
    has_end_token: bool = False
    result: Generation | None = None
