"""Texts in the making: a request's job, its sequences, and what is said about them.

Request ──submit──► Job ── sequences[0], sequences[1], …   the texts that were asked for
                     ├──── search                          beam search: its own sequences run, these get the results
                     └──── sink                            who follows them all
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Literal, Protocol, cast

from genai.decoding.logprobs import TokenLogprob
from genai.decoding.processors import FloatArray
from genai.decoding.sampler import Sampler
from genai.engine.prefix_cache import BlockKeys
from genai.errors import GenAIError, bare
from genai.options.generation_config import GenerationConfig

if TYPE_CHECKING:
    from genai.engine.beams import BeamRun
    from genai.engine.consumers import Consumer
    from genai.engine.drafting.drafts import Drafter
    from genai.runtime.adapters import ScaledAdapter

FinishReason = Literal["stop", "length", "cancelled", "timeout", "error"]
"""stop: an end-of-sequence token or the sink's word; length: a limit; timeout: its deadline; error: a failed run."""


class State(Enum):
    """Where a sequence is on its way; what has ended stays so.

        WAITING ──► RUNNING ──► an end      RUNNING prefills, then decodes: `Sequence.is_prefilling`
           ▲ ▲        │  ▲
           │ └preempt─┘  │
           └──resume── a pause              without a row it waits for one again

    What is paused does not run, and keeps its row only while nobody else needs it.
    """

    WAITING = "waits for a row"
    RUNNING = "runs"
    READER_BEHIND = "its reader has much to read"
    HELD = "its owner has not asked for more"
    BEAMS_BEHIND = "other beams of its search have no logits yet"
    STOP = "stop"
    LENGTH = "length"
    CANCELLED = "cancelled"
    TIMEOUT = "timeout"
    ERROR = "error"

    def __init__(self, _: str) -> None:
        self.is_pause = self.name in {"READER_BEHIND", "HELD", "BEAMS_BEHIND"}
        self.is_end = not self.is_pause and self.name not in {"WAITING", "RUNNING"}

    @property
    def finish_reason(self) -> FinishReason | None:
        """The reason that this end is."""
        return cast(FinishReason, self.value) if self.is_end else None

    def may_become(self, state: State) -> bool:
        """Whether this is a step on the way: an end is the last, and of two pauses each has its own end."""
        return state is not self and not self.is_end and not (self.is_pause and state.is_pause)


@dataclass(slots=True, kw_only=True)
class Timeline:
    """When things happened, in `time.perf_counter()` seconds; 0 for what has not happened."""

    submitted: float = field(default_factory=time.perf_counter)
    admitted: float = 0.0
    first_token: float = 0.0
    last_token: float = 0.0
    finished: float = 0.0
    num_preemptions: int = 0
    _waiting_since: float | None = field(init=False)
    _waited: float = 0.0

    def __post_init__(self) -> None:
        self._waiting_since = self.submitted

    def waits(self, is_waiting: bool, now: float) -> None:
        """Note whether it waits for its turn from now on; what runs or is paused does not."""
        if is_waiting and self._waiting_since is None:
            self._waiting_since = now
        elif not is_waiting and self._waiting_since is not None:
            self._waited += now - self._waiting_since
            self._waiting_since = None

    def waited(self, now: float) -> float:
        """Seconds that it has waited for its turn, in all."""
        return self._waited + (0.0 if self._waiting_since is None else now - self._waiting_since)


@dataclass(slots=True, kw_only=True, eq=False)
class Sequence:
    """A prompt and what has been generated after it.

    tokens: prompt and generated tokens; max_tokens: the length at which it ends; index: its place in the job;
    priority: lower runs first; deadline: `time.perf_counter()` seconds; row: its row while it runs; num_computed: how
    many of its tokens the row holds; num_known: how many the prefix cache had when it was queued; num_cached: prompt
    tokens whose keys and values were found; block_keys: what those
    are found by; checkpoints: lengths at which its states are to be put aside while its prompt is run; runs_alone: what
    ran beside it has cost it its states; forks: begin with its prompt; consumer: takes the logits that follow it;
    logits: those that `Keep` kept; adapter: what changes the model for it.
    """

    tokens: list[int]
    num_prompt: int
    max_tokens: int
    config: GenerationConfig
    eos_token_ids: frozenset[int]
    sampler: Sampler
    consumer: Consumer
    index: int = 0
    priority: int = 0
    deadline: float | None = None
    job: Job | None = None
    forks: list[Sequence] = field(default_factory=list)
    drafter: Drafter | None = None
    adapter: ScaledAdapter | None = None
    search: BeamRun | None = None
    state: State = State.WAITING
    row: int | None = None
    num_computed: int = 0
    num_known: int = 0
    num_cached: int = 0
    block_keys: BlockKeys = field(default_factory=BlockKeys)
    checkpoints: tuple[int, ...] = ()
    runs_alone: bool = False
    logits: FloatArray | None = None
    logprobs: list[TokenLogprob] = field(default_factory=list)
    prompt_logprobs: list[TokenLogprob | None] = field(default_factory=list)
    score: float | None = None
    error: GenAIError | None = None
    timeline: Timeline = field(default_factory=Timeline)

    def become(self, state: State) -> None:
        """Go on to another state: here and nowhere else."""
        assert self.state.may_become(state), f"{self.state} cannot become {state}"
        self.state = state

    def pause(self, state: State) -> None:
        """Do not run until `resume`. Pausing twice for one reason does nothing."""
        if self.state is not state:
            self.become(state)

    def resume(self) -> None:
        """Run again, or wait for a row if it was lost meanwhile; what is not paused goes on as it does."""
        if self.state.is_pause:
            self.become(State.WAITING if self.row is None else State.RUNNING)

    @property
    def is_paused(self) -> bool:
        """Whether it does not run though it could."""
        return self.state.is_pause

    @property
    def is_over(self) -> bool:
        """Whether it has had its end."""
        return self.state.is_end

    @property
    def finish_reason(self) -> FinishReason | None:
        """How it ended."""
        return self.state.finish_reason

    @property
    def generated(self) -> list[int]:
        """The tokens after the prompt."""
        return self.tokens[self.num_prompt :]

    @property
    def is_prefilling(self) -> bool:
        """Whether more than its newest generated token has to be run: a new prompt, or one resumed."""
        return self.num_computed < len(self.tokens) - 1 or len(self.tokens) == self.num_prompt

    @property
    def num_left(self) -> int:
        """How many of its tokens are to be run before the next one can be chosen."""
        return max(len(self.tokens) - max(self.num_computed, self.num_known), 1)

    @property
    def need(self) -> int:
        """Tokens its row must have room for: all it has, and the one that follows, if one may."""
        count = len(self.tokens)
        return count if count == self.max_tokens else count + 1

    @property
    def may_grow(self) -> bool:
        """Whether it is to be continued, and not only read."""
        return self.max_tokens > self.num_prompt

    @property
    def is_full(self) -> bool:
        """Whether no token may follow: of a manual sequence, which ends only when a token is asked for."""
        return len(self.tokens) >= self.max_tokens or self.sampler.is_complete

    @property
    def lacks_prompt_logprobs(self) -> bool:
        """Whether log probabilities of its prompt were asked for and are not all there."""
        return self.config.prompt_logprobs is not None and len(self.prompt_logprobs) < self.num_prompt

    @property
    def needs_all(self) -> bool:
        """Whether what the graph gives at every position of its prompt is asked for: all of it has to be run."""
        return self.consumer.needs_all or self.lacks_prompt_logprobs


@dataclass(slots=True, kw_only=True, eq=False)
class Job:
    """An accepted request. It is over when each of its sequences has had its one end."""

    sequences: tuple[Sequence, ...]
    sink: Sink | None = None

    @property
    def first(self) -> Sequence:
        """The first text, or the only one."""
        return self.sequences[0]

    @property
    def is_over(self) -> bool:
        """Whether all its texts have ended."""
        return all(sequence.is_over for sequence in self.sequences)

    @property
    def error(self) -> GenAIError | None:
        """The first failure of a text: a copy, for what raises it is not to be kept by whoever has the job."""
        return next((bare(sequence.error) for sequence in self.sequences if sequence.error is not None), None)


class Sink(Protocol):
    """Who follows a job; called on the thread that steps the engine or beside it, never on both at once.

    Each text has its events in order; between `accept` and `deliver` of one there may be others of the job's texts.
    """

    def accept(self, event: TokenEvent) -> bool:
        """Look at an event as it happens: does the text end here (a stop string)?"""
        ...

    def deliver(self, event: TokenEvent) -> None:
        """Take note of the same event once it is final: `finish_reason` is set if this is the sequence's end."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenEvent:
    """What happened to a sequence: one more token, or its end, or both. Every sequence has exactly one end.

    token: None when the sequence ended without a further token; logprob: if asked for.
    """

    sequence: Sequence
    token: int | None
    finish_reason: FinishReason | None
    logprob: TokenLogprob | None = None
