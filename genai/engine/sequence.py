"""One text in the making: its tokens, how it is continued, and when things happened to it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal, Protocol

from genai.decoding.sampler import Sampler
from genai.errors import GenAIError
from genai.generation_config import GenerationConfig

FinishReason = Literal["stop", "length", "cancelled", "timeout", "error"]
"""stop: an end-of-sequence token or the sink's word; length: a limit; timeout: its deadline; error: a failed run."""


@dataclass(slots=True, kw_only=True)
class Timeline:
    """When things happened, in `time.perf_counter()` seconds; 0 for what has not happened."""

    submitted: float = field(default_factory=time.perf_counter)
    admitted: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0
    finished: float = 0.0
    num_preemptions: int = 0


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """A prompt and what has been generated after it.

    tokens: prompt and generated tokens; max_tokens: the length at which it ends; row: its row while it runs;
    num_computed: how many of its tokens the row holds; num_cached: prompt tokens whose keys and values were found;
    priority: lower runs first; deadline: `time.perf_counter()` seconds; is_paused: keeps its row, does not run.
    """

    tokens: list[int]
    num_prompt: int
    max_tokens: int
    config: GenerationConfig
    eos_token_ids: frozenset[int]
    sampler: Sampler
    priority: int = 0
    deadline: float | None = None
    sink: Sink | None = None
    row: int | None = None
    num_computed: int = 0
    num_cached: int = 0
    is_paused: bool = False
    logprobs: list[float] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    error: GenAIError | None = None
    timeline: Timeline = field(default_factory=Timeline)

    @property
    def generated(self) -> list[int]:
        """The tokens after the prompt."""
        return self.tokens[self.num_prompt :]

    @property
    def is_prefilling(self) -> bool:
        """Whether more than its newest generated token has to be run: a new prompt, or one resumed."""
        return self.num_computed < len(self.tokens) - 1 or len(self.tokens) == self.num_prompt

    @property
    def need(self) -> int:
        """Tokens its row must have room for: all it has, and the one that follows."""
        return len(self.tokens) + 1


class Sink(Protocol):
    """Who follows a sequence; called on the thread that steps the engine."""

    def accept(self, event: TokenEvent) -> bool:
        """Look at an event as it happens: does the text end here (a stop string)?"""
        ...

    def deliver(self, event: TokenEvent) -> None:
        """Take note of the same event once it is final: `finish_reason` is set if this is the end."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEvent:
    """What happened to a sequence: one more token, or its end, or both. Every sequence has exactly one end.

    token: None when the sequence ended without a further token.
    """

    sequence: Sequence
    token: int | None
    finish_reason: FinishReason | None
