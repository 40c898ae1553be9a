"""What a step does: plan → give rows → prefill pieces → decode each group → choose tokens → report them.

One step runs some tokens of prompts and one decode step of everything that runs. Strings are not known here:
a job's sink turns tokens into text and says when a stop string has come.

Any thread may submit and cancel; everything else is for the one that steps (`loop.py`).
"""

from __future__ import annotations

import dataclasses
import time
from collections import abc, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from genai.decoding.processors import FloatArray
from genai.engine.beams import BeamRun
from genai.engine.beside import Beside
from genai.engine.choosing import Chooser
from genai.engine.decode_step import DecodeStep, Outcome, Work
from genai.engine.drafting.drafts import Allowance
from genai.engine.events import Events
from genai.engine.prefill_step import Piece, PrefillStep, context_of
from genai.engine.prefix_cache import Bytes, Listener, PrefixCache
from genai.engine.request import ModelLimits, Request, check, job_of, unloaded
from genai.engine.rows import CacheStatus, Rows, row_of
from genai.engine.scheduler import SHORT_TOKENS, Limits, Pace, Plan, Scheduler
from genai.engine.sequence import FinishReason, Job, Sequence, State, TokenEvent
from genai.errors import AdapterError, CapacityError, ConfigError, GenAIError, QueueFullError
from genai.metrics import EngineMetrics
from genai.runtime.adapter_matrices import FittedAdapter
from genai.runtime.adapters import NO_ROOM, LoadedAdapter, ScaledAdapter
from genai.runtime.runner import Runner


class Engine:
    """Runs sequences over one runner's cache.

    prefixes: keys and values of earlier prompts, looked up before a prompt is run; metrics: told what happens;
    num_threads: that choose tokens; is_stalled: the last step had nothing to run, because every sequence that could is
    paused.
    """

    def __init__(
        self,
        runner: Runner,
        limits: Limits,
        eos_token_ids: tuple[int, ...],
        prefixes: PrefixCache,
        metrics: EngineMetrics | None = None,
        *,
        num_threads: int = 1,
    ) -> None:
        self.limits = limits
        self._model = ModelLimits(
            vocab_size=runner.vocab_size, max_seq_len=limits.max_seq_len, eos_token_ids=tuple(eos_token_ids)
        )
        self._runner = runner
        self._cache = runner.cache
        self._prefill_step = PrefillStep(runner)
        self._decode_step = DecodeStep(runner)
        self._metrics = metrics
        self._scheduler = Scheduler(limits)
        self._rows = Rows(runner.cache, prefixes, runner.adapters)
        self._events = Events(self._scheduler, self._rows, metrics)
        self._pace = Pace()
        self._chooser = Chooser(self._rows, self._events, self._pace, metrics, num_threads)
        self._inbox: deque[tuple[Sequence | Job, FinishReason | None]] = deque()
        self._preparing: set[object] = set()
        self.is_stalled = False
        self._has_run = False

    def tell_on(self, beside: Beside, told: Callable[[], object]) -> None:
        """Have a thread on which sinks are told of tokens while the graph runs; told: called there when some were."""
        self._events.tell_on(beside, told)

    def watch_prefixes(self, listener: Listener) -> None:
        """Tell somebody of blocks that the prefix cache stores and removes from now on: see `PrefixCache.listener`."""
        self._rows.watch_prefixes(listener)

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._inbox or self._scheduler.waiting or self._scheduler.running)

    @property
    def is_held(self) -> bool:
        """Whether all that there is waits for its owner, however long that takes."""
        return not self._inbox and all(
            each.state is State.HELD and each.deadline is None
            for each in (*self._scheduler.waiting, *self._scheduler.running)
        )

    @property
    def jobs(self) -> tuple[Job, ...]:
        """The accepted jobs that are not over, as of the last step."""
        return tuple(self._events.jobs)

    @property
    def running(self) -> tuple[Sequence, ...]:
        """The sequences that have rows."""
        return tuple(self._scheduler.running)

    @property
    def num_waiting(self) -> int:
        """How many sequences wait for a row, and requests that are still being prepared."""
        num_new = sum(reason is None for _, reason in tuple(self._inbox))
        return len(self._scheduler.waiting) + num_new + len(self._preparing)

    @property
    def cache_status(self) -> CacheStatus:
        """What the cache holds at this moment; any thread may ask."""
        return self._rows.status

    def submit(self, request: Request) -> Job:
        """Queue a request.

        Raises: ConfigError for what is invalid, CapacityError for a prompt that never fits, QueueFullError when too
        many wait.
        """
        self.check(request)
        self._check_queue()
        job, first = job_of(request, self._model)
        self._inbox.append((first, None))
        return job

    def check(self, request: Request) -> None:
        """Refuse what can never be done. Raises: ConfigError, CapacityError."""
        check(request, self._model)

    @contextmanager
    def preparing(self) -> Iterator[None]:
        """Count a request among those that wait while it is prepared. Any thread may. Raises: QueueFullError."""
        self._check_queue()
        place = object()
        self._preparing.add(place)
        try:
            yield
        finally:
            self._preparing.discard(place)

    def _check_queue(self) -> None:
        if self.limits.max_waiting is not None and self.num_waiting >= self.limits.max_waiting:
            raise QueueFullError(f"{self.num_waiting} requests are waiting, the most allowed; try again later")

    def cancel(self, job: Job) -> None:
        """End a job before the next step runs, wherever it is; cancelling what has ended does nothing."""
        self._inbox.append((job, "cancelled"))

    def settle(self) -> list[TokenEvent]:
        """Handle submissions and cancellations without running anything; part of every step."""
        self._read_inbox()
        return self._events.taken_events()

    def step(self) -> list[TokenEvent]:
        """Advance everything by one step; returns what happened, in order. A failed run ends those that were in it.

        Any other exception, Ctrl-C included, ends everything before it is passed on: rows may be ahead of their tokens.
        """
        try:
            self._step()
        except BaseException as error:
            self.fail_all(GenAIError(f"a step was broken off: {type(error).__name__}: {error}"))
            raise
        return self._events.taken_events()

    def _step(self) -> None:
        self._read_inbox()
        self._has_run = False
        plan = self._scheduler.plan(self._rows, self._pace, time.perf_counter())
        self._apply(plan)
        self._prefill(plan.prefill)
        self._events.settle()  # what ends by what has been told beside those runs does not decode
        decoding = [sequence for sequence in plan.decoding if sequence.row is not None]
        self.is_stalled = not plan.prefill and not decoding and not plan.admitted
        if decoding:
            self._decode(decoding, Allowance(num_tokens=plan.num_spare))
        if not self._has_run:
            self._events.tell()
        self._events.settle()
        self._check_cache()
        if self._metrics:
            self._metrics.saw_step(len(plan.decoding), len(self._scheduler.running), self.num_waiting)
            self._metrics.saw_cache(self._rows.usage, self._rows.idle_usage)
            if self._rows.has_states:
                self._metrics.saw_states(*self._rows.state_usage)

    def _check_cache(self) -> None:
        """Raises: GenAIError if rows may hold what is not theirs: nobody is to get a text from that."""
        if self._cache.is_damaged:
            raise GenAIError("moving keys and values failed")

    def cancel_all(self) -> list[TokenEvent]:
        """End everything that waits or runs."""
        self._read_inbox()
        for job in self.jobs:
            self._events.end_job(job, "cancelled")
        return self._events.taken_events()

    def fail_all(self, error: GenAIError) -> list[TokenEvent]:
        """End everything that waits or runs with an error, each job with its own: many threads may raise them."""
        self._events.settle()
        for job in self.jobs:
            self._events.end_job(job, "error", error)
        return self._events.taken_events()

    def caught_up(self, job: Job) -> None:
        """The reader of a job wants more."""
        for sequence in job.sequences:
            if sequence.state is State.READER_BEHIND:
                sequence.resume()

    def load_adapter(self, fitted: FittedAdapter) -> LoadedAdapter:
        """Put an adapter in memory, in the place of one that has left if there is no other. Raises: AdapterError."""
        if self._runner.adapters is None:
            raise AdapterError(NO_ROOM)
        self._read_inbox()  # those are in use, too
        in_use = {job.first.adapter for job in self._events.jobs}
        return self._runner.adapters.load(fitted, {each.loaded for each in in_use if each is not None})

    def score(self, tokens: abc.Sequence[int], adapter: ScaledAdapter | None = None) -> FloatArray:
        """The logits that follow each token, [len(tokens), V], in a row beside all others.

        Raises: CapacityError; ConfigError if another adapter has the place of this one by now.
        """
        if adapter is not None and adapter.loaded.place is None:
            raise unloaded(adapter.loaded)
        self._events.tell()  # it may take long
        with self._rows.lent(len(tokens), adapter) as row:
            return self._runner.score(row, tokens)

    def demand(self, sequence: Sequence) -> bool:
        """Let a manual sequence run until its logits are there; whether that needs no more steps."""
        if sequence.is_over or (sequence.logits is not None and sequence.row is not None):
            return True
        sequence.logits = None  # a row that was lost to others is run again
        sequence.resume()
        return False

    def pick(self, sequence: Sequence) -> int:
        """Choose the next token of a manual sequence from the logits that it keeps. Raises: GenAIError."""
        return self._chooser.pick(sequence)

    def append(self, sequence: Sequence, tokens: abc.Sequence[int]) -> None:
        """Add tokens to a manual sequence, all or none. Raises: ConfigError, CapacityError."""
        bad = next((token for token in tokens if not 0 <= token < self._model.vocab_size), None)
        if bad is not None:
            raise ConfigError(f"token id {bad} is outside the vocabulary (0 to {self._model.vocab_size - 1})")
        before = len(sequence.tokens)
        count = before + len(tokens)
        if count > sequence.max_tokens:
            raise CapacityError(f"{count} tokens; at most {sequence.max_tokens} fit")
        try:
            for token in tokens:
                sequence.sampler.accept(token)
        except ConfigError:
            sequence.sampler.rewind(before - sequence.num_prompt)
            raise
        sequence.tokens += tokens
        sequence.logits = None

    def resume(
        self, request: Request, generated: abc.Sequence[int], logits: FloatArray, cache: abc.Sequence[Bytes]
    ) -> Job:
        """Go on with a manual sequence of which `export` gave the rest. Raises: ConfigError, CapacityError."""
        check(dataclasses.replace(request, prompt=[*request.prompt, *generated]), self._model)
        job, sequence = job_of(request, self._model)
        self.append(sequence, generated)
        count = len(sequence.tokens)
        if not self._cache.is_row(cache, count):
            raise ConfigError("the session's keys, values or states are not of this model's shape")
        if logits.size != self._model.vocab_size:
            raise ConfigError(f"the session's logits are {logits.size}, not {self._model.vocab_size}")
        if not (np.isfinite(logits.max()) and self._cache.shape.is_finite_row(cache)):
            raise ConfigError("the session's keys, values, states and logits are not all finite numbers")
        self._check_room(sequence)
        self._rows.restore(sequence, list(cache))
        self._scheduler.adopt(sequence)
        sequence.pause(State.HELD)
        sequence.logits = logits
        self._events.jobs.add(job)
        return job

    def export(self, sequence: Sequence) -> list[Bytes]:
        """A copy of a sequence's keys and values, one array of bytes for each buffer, and of its states."""
        return self._rows.export(sequence)

    def rewind(self, sequence: Sequence, num_tokens: int) -> None:
        """Forget a manual sequence's tokens after so many, none of its prompt."""
        del sequence.tokens[num_tokens:]
        sequence.sampler.rewind(num_tokens - sequence.num_prompt)
        sequence.logits = None
        sequence.num_computed = min(sequence.num_computed, num_tokens - 1)
        self._rows.truncate(sequence)

    def _read_inbox(self) -> None:
        while self._inbox:
            what, reason = self._inbox.popleft()
            if isinstance(what, Job):
                self._events.end_job(what, reason or "cancelled")
            elif not what.is_over:
                self._rows.note_known(what)
                self._scheduler.add(what)
                if what.job is not None:
                    self._events.jobs.add(what.job)
                    if what.adapter is not None and what.adapter.loaded.place is None:
                        self._events.end_job(what.job, "error", unloaded(what.adapter.loaded))

    def _apply(self, plan: Plan) -> None:
        """Take and give rows as planned."""
        for sequence in plan.expired:
            self._events.end(sequence, "timeout")
        for sequence in plan.preempted:
            self._rows.put_aside(sequence)  # copied back when it resumes, if it is still there then
            self._rows.release(sequence)
            self._rows.note_known(sequence)
            sequence.timeline.num_preemptions += 1
            if self._metrics:
                self._metrics.saw_preemption()
        for sequence in plan.exhausted:
            self._events.end(sequence, "length")
        for sequence in plan.admitted:
            if sequence.is_over:  # a beam whose search has just been exhausted
                continue
            with self._events.failures_end(sequence):
                self._give_row(sequence)

    def _give_row(self, sequence: Sequence) -> None:
        known = self._rows.give(sequence)
        if not sequence.timeline.admitted:
            self._admitted(sequence, known)

    def _admitted(self, sequence: Sequence, num_cached: int) -> None:
        """A sequence has its first row; of a job's prompt, only the first one's counts."""
        sequence.timeline.admitted = time.perf_counter()
        assert sequence.job is not None, "what runs belongs to a job"
        first = sequence.job.first
        if sequence.timeline is not first.timeline:  # a search's first beam has that of its results
            return
        first.num_cached = num_cached
        if self._metrics:
            waited = sequence.timeline.admitted - sequence.timeline.submitted
            self._metrics.saw_admission(waited, sequence.num_prompt, num_cached)

    def _prefill(self, shares: abc.Sequence[tuple[Sequence, int]]) -> None:
        """Run the next tokens of prompts, at most so many of each, the first in line first.

        What ends or forks between two runs moves rows about: who runs together is told anew before each.
        """
        left = dict(shares)
        while left:
            self._run_is_next()
            left = {each: count for each, count in left.items() if each.row is not None}
            if not left:
                return
            pieces = self._prefill_step.together([self._piece(*share) for share in left.items()])
            for piece in pieces:
                left[piece.sequence] -= len(piece.tokens)
            self._run_pieces(pieces)
            for piece in pieces:  # what was cut for its states goes on
                if not (left[piece.sequence] and piece.is_cut and piece.sequence.is_prefilling):
                    del left[piece.sequence]

    def _run_pieces(self, pieces: abc.Sequence[Piece]) -> None:
        """Run pieces of prompts together; the last piece of a prompt gives its first new token.

        What may be to blame that there are none shows alone.
        """
        with self._events.failures_end(*(piece.sequence for piece in pieces)):
            num_tokens, context = sum(len(piece.tokens) for piece in pieces), context_of(pieces)
            started = time.perf_counter()
            done = self._prefill_step.run(pieces)
            self._rows.recover(self._scheduler.running)
            seconds = time.perf_counter() - started
            self._pace.saw_prefill(seconds, num_tokens, context)
            if len(pieces) == 1 and len(pieces[0].tokens) == len(pieces[0].sequence.tokens) <= SHORT_TOKENS:
                self._pace.saw_short(seconds)
            outcomes: list[Outcome] = []
            for sequence, logits in done.items():
                if sequence.num_computed in sequence.checkpoints:
                    self._rows.put_aside(sequence)
                if sequence.num_computed == len(sequence.tokens):
                    self._rows.remember(sequence)
                    texts = [sequence, *self._fork(sequence)]
                    outcomes += [Outcome(sequence=each, logits=logits[None]) for each in texts]
            self._choose(outcomes)
            for piece in pieces:
                if piece.sequence not in done:
                    self._prefill([(piece.sequence, len(piece.tokens))])

    def _piece(self, sequence: Sequence, num_tokens: int) -> Piece:
        """The next tokens of a prompt: fewer are left than were planned if the prefix cache had others."""
        row = row_of(sequence)
        most = self._runner.score_chunk(row) if sequence.needs_all else self._runner.chunk(row)
        start = sequence.num_computed
        end = start + min(num_tokens, most)
        end = min((point for point in sequence.checkpoints if start < point <= end), default=end)
        return Piece(sequence=sequence, tokens=sequence.tokens[start:end], is_cut=end in sequence.checkpoints)

    def _run_is_next(self, choosing: abc.Sequence[Sequence] = ()) -> None:
        """Let others have the interpreter's time while the graph runs."""
        self._check_cache()
        self._has_run = True
        self._events.settle()
        self._events.begin(choosing)

    def _choose(self, outcomes: abc.Sequence[Outcome]) -> None:
        """Choose tokens from what was run, and how beams go on whose search has all its logits now."""
        self._events.settle()
        outcomes = [each for each in outcomes if not each.sequence.is_over]
        self._chooser.choose(outcomes)
        for run in dict.fromkeys(each.sequence.search for each in outcomes):
            if run is not None and run.is_ready:
                self._advance_beams(run)

    def _advance_beams(self, run: BeamRun) -> None:
        with self._events.failures_end(run.beams[0]):
            for beam in run.advance(self._cache):
                self._scheduler.preempt(beam)
                self._rows.release(beam)
            if run.search.is_done:
                self._events.end(run.beams[0], "length")

    def _fork(self, sequence: Sequence) -> list[Sequence]:
        """Copies of a row whose prompt is complete, for those that wait for it; who finds no room is queued."""
        forks, sequence.forks = sequence.forks, []
        ready: list[Sequence] = []
        for fork in forks:
            if fork.is_over:
                continue
            fork.prompt_logprobs = sequence.prompt_logprobs
            try:
                self._check_room(fork)
                self._rows.fork(sequence, fork)
            except CapacityError:
                self._rows.note_known(fork)
                self._scheduler.add(fork)
                continue
            self._scheduler.adopt(fork)
            self._admitted(fork, 0)
            ready.append(fork)
        return ready

    def _check_room(self, newcomer: Sequence) -> None:
        """Raises: CapacityError if a newcomer would take a row or memory that others run in."""
        running = self._scheduler.running
        needs = [*(each.need for each in running), newcomer.need]
        if len(running) >= self.limits.max_batch or not self._rows.fit_together(needs):
            raise CapacityError(
                f"{len(running)} texts have rows (max_batch={self.limits.max_batch}) and the KV cache "
                f"{self._cache.num_slots} tokens: there is no room for one more; close one first"
            )

    def _decode(self, decoding: abc.Sequence[Sequence], allowance: Allowance) -> None:
        """One step for each of these sequences: a token, or several where a draft foresaw them.

        allowance: tokens of prompts that models which draft may run.
        """
        work = [Work(sequence=sequence, draft=self._draft(sequence, allowance)) for sequence in decoding]
        self._run_is_next(decoding)
        started = time.perf_counter()
        outcomes, failures = self._decode_step.run(work)
        self._rows.recover(self._scheduler.running)
        longest = max((len(outcome.draft) for outcome in outcomes), default=0)
        if longest:
            self._pace.saw_draft(time.perf_counter() - started, longest)
        else:
            self._pace.saw_decode(time.perf_counter() - started)
        for sequence, error in failures:
            self._events.fail(sequence, error)
        self._choose(outcomes)

    def _draft(self, sequence: Sequence, allowance: Allowance) -> abc.Sequence[int]:
        """What is expected to follow a sequence's newest token, never beyond its end."""
        room = sequence.max_tokens - len(sequence.tokens) - 1
        if room < 1 or not sequence.consumer.can_draft:
            return ()
        forced = sequence.sampler.forced()
        if forced:
            return forced[:room]
        if sequence.drafter is None:
            return ()
        cost = self._pace.draft_cost * (2 if self._rows.has_states else 1)
        return sequence.drafter.draft(sequence.tokens, room, cost, allowance)
