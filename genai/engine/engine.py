"""The decoding loop: plan → give rows → prefill a chunk → decode each group → choose tokens → report them.

One step runs at most one chunk of one prompt and one decode step of everything that runs. Strings are not known here:
a job's sink turns tokens into text and says when a stop string has come.

Any thread may submit and cancel; one thread at a time may step.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import Counter, deque
from collections.abc import Iterator
from collections.abc import Sequence as List
from contextlib import contextmanager

import numpy as np

from genai.decoding.logprobs import token_logprob
from genai.decoding.processors import FloatArray
from genai.decoding.sampler import choose
from genai.engine.beams import BeamRun
from genai.engine.decode import DecodeStep, Outcome, Work
from genai.engine.prefix_cache import BLOCK_SIZE, Bytes, PrefixCache
from genai.engine.request import Model, Request, check, job_of
from genai.engine.scheduler import Limits, Memory, Pace, Plan, Scheduler
from genai.engine.sequence import FinishReason, Job, Sequence, TokenEvent
from genai.errors import CapacityError, ConfigError, GenAIError, GraphRunError, QueueFullError
from genai.metrics import EngineMetrics
from genai.runtime.runner import Runner

_log = logging.getLogger(__name__)


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
        self._model = Model(
            vocab_size=runner.vocab_size, max_seq_len=limits.max_seq_len, eos_token_ids=tuple(eos_token_ids)
        )
        self._runner = runner
        self._cache = runner.cache
        self._decode_step = DecodeStep(runner)
        self._prefixes = prefixes
        self._metrics = metrics
        self._scheduler = Scheduler(limits)
        self._pace = Pace()
        self._memory = Memory(has_room=self._has_room, holds=self._cache.would_hold)
        self._inbox: deque[tuple[Sequence | Job, FinishReason | None]] = deque()
        self._jobs: set[Job] = set()
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

    def submit(self, request: Request) -> Job:
        """Queue a request.

        Raises: ConfigError for what is invalid, CapacityError for a prompt that never fits, QueueFullError when too many
        wait or the engine is draining.
        """
        check(request, self._model)
        if self._is_draining:
            raise QueueFullError("the engine is shutting down and takes no new requests")
        if self.limits.max_waiting is not None and self.num_waiting >= self.limits.max_waiting:
            raise QueueFullError(f"{self.num_waiting} requests are waiting, the most allowed; try again later")
        job, first = job_of(request, self._model)
        self._inbox.append((first, None))
        return job

    def cancel(self, job: Job) -> None:
        """End a job before the next step runs, wherever it is; cancelling what has ended does nothing."""
        self._inbox.append((job, "cancelled"))

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
        for job in tuple(self._jobs):
            self._end_job(job, "cancelled")
        return self._taken_events()

    def fail_all(self, error: GenAIError) -> list[TokenEvent]:
        """End everything that waits or runs with an error."""
        for job in tuple(self._jobs):
            self._end_job(job, "error", error)
        return self._taken_events()

    def pick(self, sequence: Sequence) -> int:
        """Choose the next token of a manual sequence from the logits that it keeps. Raises: GenAIError."""
        assert sequence.logits is not None, "it has logits"
        logits, sequence.logits = sequence.logits, None
        (token,) = _chosen([Outcome(sequence=sequence, logits=logits[None])], 0)
        if isinstance(token, GenAIError):
            self._fail(sequence, token)
            raise token
        with self._failures_end(sequence):
            self._advance(sequence, logits, token)
        return token

    def append(self, sequence: Sequence, tokens: List[int]) -> None:
        """Add tokens to a manual sequence. Raises: CapacityError."""
        count = len(sequence.tokens) + len(tokens)
        if count > sequence.max_tokens:
            raise CapacityError(f"{count} tokens; at most {sequence.max_tokens} fit")
        for token in tokens:
            sequence.tokens.append(token)
            sequence.sampler.accept(token)
        sequence.logits = None

    def resume(self, request: Request, generated: List[int], logits: FloatArray, cache: List[Bytes]) -> Job:
        """Go on with a manual sequence whose keys and values are at hand. Raises: ConfigError, CapacityError."""
        check(dataclasses.replace(request, prompt=[*request.prompt, *generated]), self._model)
        if len(self._scheduler.running) >= self.limits.max_batch:
            raise CapacityError(
                f"{self.limits.max_batch} texts have rows, the most allowed (max_batch); close one first"
            )
        job, sequence = job_of(request, self._model)
        self.append(sequence, generated)
        count = len(sequence.tokens)
        if [data.size for data in cache] != [count * self._cache.shape.slot_bytes] * self._cache.shape.num_buffers:
            raise ConfigError("the session's keys and values are not of this model's shape")
        if logits.size != self._model.vocab_size:
            raise ConfigError(f"the session's logits are {logits.size}, not {self._model.vocab_size}")
        sequence.row = self._cache.import_row(cache, room=sequence.need)
        sequence.num_computed, sequence.logits, sequence.is_paused = count, logits, True
        self._scheduler.adopt(sequence)
        self._jobs.add(job)
        return job

    def export(self, sequence: Sequence) -> list[Bytes]:
        """A copy of a sequence's keys and values, one array of bytes for each buffer."""
        return self._cache.export_row(_row(sequence))

    def rewind(self, sequence: Sequence, num_tokens: int) -> None:
        """Forget a manual sequence's tokens after so many, at least one."""
        del sequence.tokens[num_tokens:]
        sequence.num_prompt = min(sequence.num_prompt, num_tokens)
        sequence.sampler.rewind(num_tokens - sequence.num_prompt)
        sequence.logits = None
        sequence.num_computed = min(sequence.num_computed, num_tokens - 1)
        if sequence.row is not None:
            self._cache.truncate(sequence.row, sequence.num_computed)

    def _read_inbox(self) -> None:
        while self._inbox:
            what, reason = self._inbox.popleft()
            if isinstance(what, Job):
                self._end_job(what, reason or "cancelled")
            elif what.finish_reason is None:
                self._scheduler.add(what)
                if what.job is not None:
                    self._jobs.add(what.job)

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
        known = 0 if sequence.lacks_prompt_logprobs else self._prefixes.lookup(sequence.tokens[:-1])
        if known:
            data = self._prefixes.take(sequence.tokens[:known])
            sequence.row = self._cache.import_row(data, room=sequence.need)
        else:
            sequence.row = self._cache.allocate(sequence.need)
        sequence.num_computed = known
        if not sequence.timeline.admitted:
            self._admitted(sequence, known)

    def _admitted(self, sequence: Sequence, num_cached: int) -> None:
        """A sequence has its first row; of a job's prompt, only the first one's counts."""
        sequence.timeline.admitted = time.perf_counter()
        sequence.num_cached = num_cached
        if self._metrics and sequence.job is not None and sequence is sequence.job.sequences[0]:
            waited = sequence.timeline.admitted - sequence.timeline.submitted
            self._metrics.saw_admission(waited, sequence.num_prompt, num_cached)

    def _prefill(self, sequence: Sequence, num_tokens: int) -> None:
        """Run the next tokens of a prompt, at most so many; the last of them gives the first new token.

        Fewer are left than were planned when the row began with what the prefix cache had.
        """
        start = time.perf_counter()
        chunk = sequence.tokens[sequence.num_computed : sequence.num_computed + num_tokens]
        if sequence.lacks_prompt_logprobs:
            chunk = chunk[: self._runner.score_chunk]
            scored = self._runner.run_row(_row(sequence), chunk, len(chunk))
            _note_prompt_logprobs(sequence, scored)
            logits = scored[-1]
        else:
            logits = self._runner.prefill_chunk(_row(sequence), chunk)
        sequence.num_computed += len(chunk)
        self._pace.saw_prefill(time.perf_counter() - start, len(chunk))
        if sequence.num_computed == len(sequence.tokens):
            self._remember(sequence)
            forks = self._fork(sequence)
            self._choose([Outcome(sequence=each, logits=logits[None]) for each in (sequence, *forks)])

    def _fork(self, sequence: Sequence) -> list[Sequence]:
        """Copies of a row whose prompt is complete, for those that wait for it; who finds no room is queued."""
        forks, sequence.forks = sequence.forks, []
        ready: list[Sequence] = []
        for fork in forks:
            if fork.finish_reason is not None:
                continue
            fork.prompt_logprobs = sequence.prompt_logprobs
            try:
                if len(self._scheduler.running) >= self.limits.max_batch:
                    raise CapacityError("the batch is full")
                fork.row = self._cache.fork(_row(sequence), sequence.num_computed, room=fork.need)
            except CapacityError:
                self._scheduler.add(fork)
                continue
            fork.num_computed = sequence.num_computed
            self._scheduler.adopt(fork)
            self._admitted(fork, 0)
            ready.append(fork)
        return ready

    def _decode(self, decoding: List[Sequence]) -> None:
        """One step for each of these sequences: a token, or several where a draft foresaw them."""
        started = time.perf_counter()
        work = [Work(sequence=sequence, draft=self._draft(sequence)) for sequence in decoding]
        drafted = time.perf_counter()
        outcomes, failures = self._decode_step.run(work)
        longest = max((len(outcome.draft) for outcome in outcomes), default=0)
        if longest:
            self._pace.saw_draft(time.perf_counter() - drafted, longest)
        else:
            self._pace.saw_decode(time.perf_counter() - started)
        for failure in failures:
            self._fail(failure.sequence, failure.error)
        self._choose(outcomes)

    def _draft(self, sequence: Sequence) -> List[int]:
        """What is expected to follow a sequence's newest token, never beyond its end."""
        room = sequence.max_tokens - len(sequence.tokens) - 1
        if room < 1 or sequence.search is not None or sequence.is_manual:
            return ()
        forced = sequence.sampler.forced()
        if forced:
            return forced[:room]
        if sequence.drafter is None:
            return ()
        return sequence.drafter.draft(sequence.tokens, room, self._pace.draft_cost)

    def _choose(self, outcomes: List[Outcome]) -> None:
        """Choose tokens from logits, position by position: a draft's next position counts if the draft was right.

        Beams and manual sequences keep their logits instead. Rows are freed only by sequences that end.
        """
        for outcome in outcomes:
            sequence = outcome.sequence
            sequence.num_computed = min(sequence.num_computed, len(sequence.tokens) - 1)
        accepted: Counter[Sequence] = Counter()
        alive = list(outcomes)
        position = 0
        while alive:
            ready = [each for each in alive if self._is_to_choose(each.sequence, each.logits[position])]
            alive = []
            for outcome, token in zip(ready, _chosen(ready, position), strict=True):
                sequence = outcome.sequence
                if isinstance(token, GenAIError):
                    self._fail(sequence, token)
                    continue
                with self._failures_end(sequence):
                    self._advance(sequence, outcome.logits[position], token)
                if position < len(outcome.draft) and outcome.draft[position] == token:
                    accepted[sequence] += 1
                    if sequence.finish_reason is None:
                        alive.append(outcome)
            position += 1
        for outcome in outcomes:
            self._settle_draft(outcome, accepted[outcome.sequence])
        for run in {each.sequence.search for each in outcomes if each.sequence.search is not None}:
            if run.is_ready:
                self._advance_beams(run)

    def _is_to_choose(self, sequence: Sequence, logits: FloatArray) -> bool:
        """Count the token that was run; whether a token is to be chosen from these logits now."""
        sequence.num_computed += 1
        if sequence.finish_reason is not None:
            return False
        if sequence.search is not None:
            sequence.search.take(sequence, logits)
        elif sequence.is_manual:
            sequence.logits = logits.copy()
            sequence.is_paused = True
        elif len(sequence.tokens) >= sequence.max_tokens:  # no token was asked for
            self._end(sequence, "length")
        elif sequence.sampler.is_complete:
            self._end(sequence, "stop")
        else:
            return True
        return False

    def _settle_draft(self, outcome: Outcome, num_accepted: int) -> None:
        """Forget what a row holds of a draft beyond what came true, and learn from it."""
        sequence = outcome.sequence
        if outcome.draft and sequence.row is not None:
            self._cache.truncate(sequence.row, sequence.num_computed)
        if sequence.drafter is not None:
            num_drafted = sequence.drafter.settle(len(outcome.draft), num_accepted, self._pace.draft_cost)
            if self._metrics and num_drafted:
                self._metrics.saw_draft(num_drafted, num_accepted)

    def _advance_beams(self, run: BeamRun) -> None:
        """All beams of a job have their logits: choose how they go on, or end."""
        with self._failures_end(run.beams[0]):
            for beam in run.advance(self._cache):
                self._scheduler.preempt(beam)
                self._release(beam)
            if run.search.is_done:
                self._end(run.beams[0], "length")

    def _advance(self, sequence: Sequence, logits: FloatArray, token: int) -> None:
        """Add a chosen token to a sequence and see whether it ends there."""
        sequence.tokens.append(token)
        sequence.sampler.accept(token)
        logprob = None
        if sequence.config.logprobs:
            logprob = token_logprob(logits, token, sequence.config.top_logprobs)
            sequence.logprobs.append(logprob)
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
        self._happened(TokenEvent(sequence=sequence, token=token, finish_reason=reason, logprob=logprob))

    def _happened(self, event: TokenEvent) -> None:
        """Let the sink judge an event, end the sequence if this is its end, and report it."""
        sequence = event.sequence
        sink = sequence.job.sink if sequence.job is not None else None
        reason = event.finish_reason
        try:
            if sink is not None and sink.accept(event):
                reason = "stop"
        except Exception as error:
            reason = self._blame(sequence, error)
        if reason is not None:
            self._finished(sequence, reason)
        event = dataclasses.replace(event, finish_reason=sequence.finish_reason)
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
        self._end(sequence, "error", error)

    def _end_job(self, job: Job, reason: FinishReason, error: GenAIError | None = None) -> None:
        for sequence in job.sequences:
            self._end(sequence, reason, error)

    def _end(self, sequence: Sequence, reason: FinishReason, error: GenAIError | None = None) -> None:
        """End a sequence without a further token; a beam ends its whole search. Ending twice does nothing."""
        if sequence.finish_reason is not None:
            return
        if sequence.search is not None:
            self._end_search(sequence.search, reason, error)
            return
        sequence.error = sequence.error or error
        self._finished(sequence, reason)
        self._happened(TokenEvent(sequence=sequence, token=None, finish_reason=reason))

    def _end_search(self, run: BeamRun, reason: FinishReason, error: GenAIError | None) -> None:
        """The beams go, and those who asked get the best texts as they are."""
        for beam in (*run.beams, *run.spare):
            beam.forks = []
            beam.finish_reason = reason
            self._scheduler.remove(beam)
            self._release(beam)
        endings = run.finish(reason) if error is None else [reason] * len(run.results)
        for result, ending in zip(run.results, endings, strict=True):
            result.error = error
            tokens: list[int | None] = [*result.generated] or [None]
            for token in tokens[:-1]:
                self._happened(TokenEvent(sequence=result, token=token, finish_reason=None))
            self._happened(TokenEvent(sequence=result, token=tokens[-1], finish_reason=ending))

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
        if sequence.drafter is not None:
            sequence.drafter.close()
        for fork in sequence.forks:  # it ended before they could have its prompt
            self._scheduler.add(fork)
        sequence.forks = []
        if sequence.job is not None and sequence.job.is_over:
            self._jobs.discard(sequence.job)
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


def _chosen(outcomes: List[Outcome], position: int) -> list[int | GenAIError]:
    """The next token of each, or why there is none."""
    logits = [outcome.logits[position] for outcome in outcomes]
    if not all(np.isfinite(row.max()) for row in logits):
        message = "the model's logits are not finite numbers; a package of higher precision may help"
        bad = [GraphRunError(message) if not np.isfinite(row.max()) else None for row in logits]
        good = iter(_chosen([each for each, error in zip(outcomes, bad, strict=True) if error is None], position))
        return [error or next(good) for error in bad]
    try:
        return list(choose([outcome.sequence.sampler for outcome in outcomes], logits))
    except GenAIError as error:
        if len(outcomes) == 1:
            return [error]
        return [_chosen([outcome], position)[0] for outcome in outcomes]


def _note_prompt_logprobs(sequence: Sequence, logits: FloatArray) -> None:
    """Log probabilities of the prompt's tokens that follow those just run; the first token has none."""
    notes, count = sequence.prompt_logprobs, sequence.config.prompt_logprobs or 0
    if not notes:
        notes.append(None)
    for offset, row in enumerate(logits, start=1):
        place = sequence.num_computed + offset
        if place == len(notes) and place < sequence.num_prompt:
            notes.append(token_logprob(row, sequence.tokens[place], count))


def _row(sequence: Sequence) -> int:
    assert sequence.row is not None, "a running sequence has a row"
    return sequence.row
