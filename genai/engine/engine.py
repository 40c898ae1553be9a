"""The decoding loop: plan → give rows → prefill a chunk → decode each group → report tokens.

One step runs at most one chunk of one prompt and one decode step of everything that runs. Strings are not known here:
a sequence's sink turns tokens into text and says when a stop string has come.

Any thread may submit and cancel; one thread at a time may step.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Iterator
from collections.abc import Sequence as List
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from genai.decoding.processors import FloatArray, log_probability
from genai.decoding.sampler import Sampler
from genai.engine.prefix_cache import BLOCK_SIZE, PrefixCache
from genai.engine.scheduler import Limits, Memory, Pace, Plan, Scheduler
from genai.engine.sequence import FinishReason, Sequence, Sink, TokenEvent
from genai.errors import CapacityError, ConfigError, GenAIError, GraphRunError, QueueFullError
from genai.generation_config import GenerationConfig
from genai.metrics import EngineMetrics
from genai.runtime.runner import Runner

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A prompt and how to continue it.

    priority: lower runs first; timeout: seconds from submission until it ends with "timeout"; sink: who follows it.
    Raises: ConfigError.
    """

    prompt: List[int]
    config: GenerationConfig
    priority: int = 0
    timeout: float | None = None
    sink: Sink | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.priority, int | np.integer):
            raise ConfigError(f"priority={self.priority!r}: must be a whole number; lower runs first")
        if self.timeout is not None and not (isinstance(self.timeout, int | float) and self.timeout >= 0):
            raise ConfigError(f"timeout={self.timeout!r}: must be seconds, at least 0, or None")


class Engine:
    """Runs sequences over one runner's cache.

    prefixes: keys and values of earlier prompts, looked up before a prompt is run; metrics: told what happens;
    is_stalled: the last step had nothing to run, because every sequence that could is paused.
    """

    def __init__(
        self,
        runner: Runner,
        limits: Limits,
        eos_token_ids: tuple[int, ...],
        prefixes: PrefixCache,
        metrics: EngineMetrics | None = None,
    ) -> None:
        self.limits = limits
        self._runner = runner
        self._cache = runner.cache
        self._eos_token_ids = eos_token_ids
        self._prefixes = prefixes
        self._metrics = metrics
        self._scheduler = Scheduler(limits)
        self._pace = Pace()
        self._memory = Memory(has_room=self._has_room, holds=self._cache.would_hold)
        self._inbox: deque[tuple[Sequence, FinishReason | None]] = deque()
        self._events: list[TokenEvent] = []
        self._is_draining = False
        self.is_stalled = False

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._inbox or self._scheduler.waiting or self._scheduler.running)

    @property
    def running(self) -> tuple[Sequence, ...]:
        """The sequences that have rows."""
        return tuple(self._scheduler.running)

    @property
    def num_waiting(self) -> int:
        """How many sequences wait for a row."""
        return len(self._scheduler.waiting) + sum(reason is None for _, reason in tuple(self._inbox))

    def submit(self, request: Request) -> Sequence:
        """Queue a request.

        Raises: ConfigError for an invalid prompt, CapacityError for one that never fits, QueueFullError when too many
        wait or the engine is draining.
        """
        self._check(request)
        prompt, config = list(request.prompt), request.config
        eos = self._eos_token_ids if config.eos_token_ids is None else config.eos_token_ids
        limit = self.limits.max_seq_len
        sequence = Sequence(
            tokens=prompt,
            num_prompt=len(prompt),
            max_tokens=min(limit, len(prompt) + (config.max_new_tokens or limit)),
            config=config,
            eos_token_ids=frozenset() if config.ignore_eos else frozenset(eos),
            sampler=Sampler(config.sampling_config, prompt, self._runner.vocab_size),
            priority=request.priority,
            sink=request.sink,
        )
        if request.timeout is not None:
            sequence.deadline = sequence.timeline.submitted + request.timeout
        self._inbox.append((sequence, None))
        return sequence

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence before the next step runs, wherever it is; cancelling what has ended does nothing."""
        self._inbox.append((sequence, "cancelled"))

    def settle(self) -> list[TokenEvent]:
        """Handle submissions and cancellations without running anything; part of every step."""
        self._read_inbox()
        return self._taken_events()

    def step(self) -> list[TokenEvent]:
        """Advance everything by one step; returns what happened, in order. A failed run ends those that were in it.

        Any other exception, Ctrl-C included, ends everything before it is passed on: rows may be ahead of their tokens.
        """
        try:
            self._step()
        except BaseException as error:
            self.fail_all(GenAIError(f"a step was broken off: {type(error).__name__}: {error}"))
            raise
        return self._taken_events()

    def _step(self) -> None:
        self._read_inbox()
        plan = self._scheduler.plan(self._memory, self._pace, time.perf_counter())
        self._apply(plan)
        if plan.prefill is not None and plan.prefill[0].row is not None:
            with self._failures_end(plan.prefill[0]):
                self._prefill(*plan.prefill)
        decoding = [sequence for sequence in plan.decoding if sequence.row is not None]
        self.is_stalled = plan.prefill is None and not decoding and not plan.admitted
        if decoding:
            self._decode(decoding)
        if self._metrics:
            self._metrics.saw_step(len(plan.decoding), len(self._scheduler.running), self.num_waiting, self._usage())

    def drain(self) -> None:
        """Refuse new requests from now on; those accepted go on."""
        self._is_draining = True

    def cancel_all(self) -> list[TokenEvent]:
        """End everything that waits or runs."""
        self._read_inbox()
        for sequence in [*self._scheduler.waiting, *self._scheduler.running]:
            self._end(sequence, "cancelled")
        return self._taken_events()

    def fail_all(self, error: GenAIError) -> list[TokenEvent]:
        """End everything that waits or runs with an error."""
        for sequence in [*self._scheduler.waiting, *self._scheduler.running]:
            self._fail(sequence, error)
        return self._taken_events()

    def _read_inbox(self) -> None:
        while self._inbox:
            sequence, reason = self._inbox.popleft()
            if reason is not None:
                self._end(sequence, reason)
            elif sequence.finish_reason is None:
                self._scheduler.add(sequence)

    def _check(self, request: Request) -> None:
        prompt, vocab_size, limit = request.prompt, self._runner.vocab_size, self.limits.max_seq_len
        if not prompt:
            raise ConfigError("the prompt has no tokens; give at least one")
        if min(prompt) < 0 or max(prompt) >= vocab_size:
            bad = min(prompt) if min(prompt) < 0 else max(prompt)
            raise ConfigError(f"token id {bad} is outside the vocabulary (0 to {vocab_size - 1})")
        if len(prompt) >= limit:
            raise CapacityError(
                f"the prompt has {len(prompt)} tokens; at most {limit - 1} fit, with room for one more "
                f"(max_seq_len={limit})"
            )
        if self._is_draining:
            raise QueueFullError("the engine is shutting down and takes no new requests")
        if self.limits.max_waiting is not None and self.num_waiting >= self.limits.max_waiting:
            raise QueueFullError(f"{self.num_waiting} requests are waiting, the most allowed; try again later")

    def _apply(self, plan: Plan) -> None:
        """Take and give rows as planned."""
        for sequence in plan.expired:
            self._end(sequence, "timeout")
        for sequence in plan.preempted:
            self._remember(sequence)  # copied back when it resumes, if it is still there then
            self._release(sequence)
            sequence.timeline.num_preemptions += 1
            if self._metrics:
                self._metrics.saw_preemption()
        for sequence in plan.exhausted:
            self._end(sequence, "length")
        for sequence in plan.admitted:
            with self._failures_end(sequence):
                self._give_row(sequence)

    def _give_row(self, sequence: Sequence) -> None:
        """A row, filled with what the prefix cache has; at least the last token has to be run."""
        known = self._prefixes.lookup(sequence.tokens[:-1])
        if known:
            data = self._prefixes.take(sequence.tokens[:known])
            sequence.row = self._cache.import_row(data, room=sequence.need)
        else:
            sequence.row = self._cache.allocate(sequence.need)
        sequence.num_computed = known
        if not sequence.timeline.admitted:
            sequence.timeline.admitted = time.perf_counter()
            sequence.num_cached = known
            if self._metrics:
                waited = sequence.timeline.admitted - sequence.timeline.submitted
                self._metrics.saw_admission(waited, sequence.num_prompt, known)

    def _prefill(self, sequence: Sequence, num_tokens: int) -> None:
        """Run the next tokens of a prompt, at most so many; the last of them gives the first new token.

        Fewer are left than were planned when the row began with what the prefix cache had.
        """
        start = time.perf_counter()
        chunk = sequence.tokens[sequence.num_computed : sequence.num_computed + num_tokens]
        logits = self._runner.prefill_chunk(_row(sequence), chunk)
        sequence.num_computed += len(chunk)
        self._pace.saw_prefill(time.perf_counter() - start, len(chunk))
        if sequence.num_computed == len(sequence.tokens):
            self._remember(sequence)
            self._advance(sequence, logits)

    def _decode(self, decoding: List[Sequence]) -> None:
        """One token for each of these sequences, group by group; the other rows of a group sit out.

        Nothing is freed before all groups have run: that would move rows about.
        """
        started = time.perf_counter()
        for sequence in decoding:
            with self._failures_end(sequence):
                self._cache.reserve(_row(sequence), sequence.need)
        ready = {sequence.row: sequence for sequence in decoding if sequence.row is not None}
        results: list[tuple[Sequence, FloatArray]] = []
        failures: list[tuple[Sequence, GenAIError]] = []
        for group in self._cache.groups:
            members = [(index, ready[row]) for index, row in enumerate(group.rows) if row in ready]
            if not members:
                continue
            try:
                tokens = [ready[row].tokens[-1:] if row in ready else () for row in group.rows]
                logits = self._runner.advance(group, tokens)
            except GenAIError as error:
                _log.warning("%d sequences end: %s", len(members), error)
                failures += [(sequence, error) for _, sequence in members]
                continue
            results += [(sequence, logits[index, 0]) for index, sequence in members]
        self._pace.saw_decode(time.perf_counter() - started)
        for sequence, reason in failures:
            self._fail(sequence, reason)
        for sequence, row_logits in results:
            sequence.num_computed += 1
            with self._failures_end(sequence):
                self._advance(sequence, row_logits)

    def _advance(self, sequence: Sequence, logits: FloatArray) -> None:
        """Choose a sequence's next token and see whether it ends there."""
        token = _chosen(sequence.sampler, logits)
        if sequence.config.logprobs:
            sequence.logprobs.append(log_probability(logits, token))
        sequence.tokens.append(token)
        now, timeline = time.perf_counter(), sequence.timeline
        if self._metrics and timeline.first_token:
            self._metrics.saw_next_token(now - timeline.last_token)
        elif self._metrics:
            self._metrics.saw_first_token(now - timeline.submitted)
        timeline.first_token = timeline.first_token or now
        timeline.last_token = now
        reason: FinishReason | None = None
        if token in sequence.eos_token_ids:
            reason = "stop"
        elif len(sequence.tokens) >= sequence.max_tokens:
            reason = "length"
        self._happened(TokenEvent(sequence=sequence, token=token, finish_reason=reason))

    def _happened(self, event: TokenEvent) -> None:
        """Let the sink judge an event, end the sequence if this is its end, and report it."""
        sequence, sink = event.sequence, event.sequence.sink
        reason = event.finish_reason
        try:
            if sink is not None and sink.accept(event):
                reason = "stop"
        except Exception as error:
            reason = self._blame(sequence, error)
        if reason is not None:
            self._finished(sequence, reason)
        event = TokenEvent(sequence=sequence, token=event.token, finish_reason=sequence.finish_reason)
        self._events.append(event)
        try:
            if sink is not None:
                sink.deliver(event)
        except Exception as error:
            self._end(sequence, self._blame(sequence, error))

    @staticmethod
    def _blame(sequence: Sequence, error: Exception) -> FinishReason:
        """A sink failed: its sequence ends, unless it has ended already."""
        _log.error("a sequence ends because its sink failed", exc_info=error)
        if sequence.finish_reason is None:
            sequence.error = GenAIError(f"a sequence's sink failed: {type(error).__name__}: {error}")
        return "error"

    @contextmanager
    def _failures_end(self, sequence: Sequence) -> Iterator[None]:
        """If the work inside fails, this sequence ends and the others go on."""
        try:
            yield
        except GenAIError as error:
            _log.warning("a sequence ends: %s", error)
            self._fail(sequence, error)

    def _fail(self, sequence: Sequence, error: GenAIError) -> None:
        if sequence.finish_reason is None:
            sequence.error = error
            self._end(sequence, "error")

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        """End a sequence without a further token. Ending it twice does nothing."""
        if sequence.finish_reason is None:
            self._finished(sequence, reason)
            self._happened(TokenEvent(sequence=sequence, token=None, finish_reason=reason))

    def _finished(self, sequence: Sequence, reason: FinishReason) -> None:
        """Free what an ended sequence holds. The first reason stays."""
        if sequence.finish_reason is not None:
            return
        sequence.finish_reason = reason
        sequence.timeline.finished = time.perf_counter()
        self._scheduler.remove(sequence)
        if sequence.row is not None and reason in {"stop", "length"}:
            self._remember(sequence)
        self._release(sequence)
        if self._metrics:
            self._metrics.saw_end(reason, sequence.timeline.finished - sequence.timeline.submitted)

    def _remember(self, sequence: Sequence) -> None:
        """Put a sequence's whole blocks into the prefix cache."""
        row = _row(sequence)
        end = sequence.num_computed // BLOCK_SIZE * BLOCK_SIZE
        known = self._prefixes.lookup(sequence.tokens[:end])
        if known < end and self._prefixes.is_on:
            self._prefixes.put(sequence.tokens[:end], known, self._cache.export_row(row, known, end))

    def _release(self, sequence: Sequence) -> None:
        if sequence.row is not None:
            self._cache.free(sequence.row)
            sequence.row, sequence.num_computed = None, 0

    def _has_room(self, sequence: Sequence) -> bool:
        return sequence.row is None or sequence.need <= self._cache.capacity(sequence.row)

    def _usage(self) -> float:
        return sum(self._cache.valid(row) for row in self._cache.rows) / self._cache.num_slots

    def _taken_events(self) -> list[TokenEvent]:
        events, self._events = self._events, []
        return events


def _chosen(sampler: Sampler, logits: FloatArray) -> int:
    """The next token. Raises: GraphRunError for logits from which none can be chosen."""
    if not np.isfinite(logits.max()):
        raise GraphRunError("the model's logits are not finite numbers; a package of higher precision may help")
    return sampler.choose(logits)


def _row(sequence: Sequence) -> int:
    assert sequence.row is not None, "a running sequence has a row"
    return sequence.row
