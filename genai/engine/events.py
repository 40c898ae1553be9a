"""What happens to sequences, told to their sinks; and their ends: each has exactly one, and holds nothing after it.

A token that ends nothing by itself is told while the graph runs next, if there is a thread for that (`Beside`): what a
sink says to it, a stop string or a failure, holds before the next token is chosen. All other events are told at once.
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Iterable, Iterator

from genai.engine.beams import BeamRun
from genai.engine.beside import Beside
from genai.engine.rows import Rows
from genai.engine.scheduler import Scheduler
from genai.engine.sequence import FinishReason, Job, Sequence, Sink, State, TokenEvent
from genai.errors import GenAIError, bare
from genai.metrics import EngineMetrics

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def _failures_logged() -> Iterator[None]:
    """For what follows an end: on a device that fails, or without memory, sinks are to be told of it all the same."""
    try:
        yield
    except Exception:
        _log.exception("a sequence that has ended is not all cleared away")


class Events:
    """Reports events and ends sequences.

    jobs: those accepted that are not over.
    """

    def __init__(self, scheduler: Scheduler, rows: Rows, metrics: EngineMetrics | None) -> None:
        self.jobs: set[Job] = set()
        self._beside: Beside | None = None
        self._told: Callable[[], object] = lambda: None
        self._late: list[TokenEvent] = []
        self._telling: _Telling | None = None
        self._scheduler = scheduler
        self._rows = rows
        self._metrics = metrics
        self._events: list[TokenEvent] = []

    def taken_events(self) -> list[TokenEvent]:
        """The events since the last call, in order."""
        events, self._events = self._events, []
        return events

    def tell_on(self, beside: Beside, told: Callable[[], object]) -> None:
        """Have a thread for tokens that can wait for the next run; told: called there when some have been told."""
        self._beside, self._told = beside, told

    def happened(self, event: TokenEvent) -> None:
        """Let the sink judge an event, end the sequence if this is its end, and report it."""
        sink = _sink_of(event)
        self._judged(event, False if sink is None else _judge(sink, event))

    def happened_late(self, event: TokenEvent) -> None:
        """The same for a token that ends nothing by itself, as soon as the graph runs, or at the latest at the end."""
        if self._beside is None or _sink_of(event) is None:
            self.happened(event)
        else:
            self._late.append(event)

    def begin(self, choosing: Iterable[Sequence] = ()) -> None:
        """The graph is about to run: tell what is late. choosing: whose next tokens come of it, for their masks."""
        if self._beside is None:
            return
        constrained = [each for each in choosing if each.sampler.is_constrained]
        if self._late or constrained:
            self._telling, self._late = _Telling(self._late, constrained, self._told), []
            self._beside.begin(self._telling.run)

    def settle(self) -> None:
        """Wait until what was begun has been told, and do as the sinks say: before anything is chosen, ended, freed."""
        if self._telling is None or self._beside is None:
            return
        self._beside.wait()
        telling, self._telling = self._telling, None
        for event, verdict in zip(telling.events, telling.verdicts, strict=True):
            if isinstance(verdict, _UndeliveredError):
                self._events.append(event)
                self.end(event.sequence, self._blame(event.sequence, verdict.error))
            elif verdict:
                self._judged(event, verdict)
            else:
                self._events.append(event)

    def tell(self, job: Job | None = None) -> None:
        """Tell what is late now, of one job or of all."""
        self.settle()
        late, self._late = self._late, []
        for event in late:
            if job is not None and event.sequence.job is not job:
                self._late.append(event)
            else:
                self.happened(event)

    def _judged(self, event: TokenEvent, verdict: bool | Exception) -> None:
        """End a sequence if this is its end, or its sink says so, and report the event."""
        sequence, reason = event.sequence, event.finish_reason
        if isinstance(verdict, Exception):
            reason = self._blame(sequence, verdict)
        elif verdict:
            reason = "stop"
        if reason is not None:
            self._finished(sequence, reason)
            event = dataclasses.replace(event, finish_reason=sequence.finish_reason)
        self._events.append(event)
        try:
            if (sink := _sink_of(event)) is not None:
                sink.deliver(event)
        except Exception as error:
            self.end(sequence, self._blame(sequence, error))

    @staticmethod
    def _blame(sequence: Sequence, error: Exception) -> FinishReason:
        """A sink failed: its sequence ends, unless it has ended already."""
        _log.error("a sequence ends because its sink failed", exc_info=error)
        if not sequence.is_over:
            sequence.error = GenAIError(f"a sequence's sink failed: {type(error).__name__}: {error}")
        return "error"

    @contextlib.contextmanager
    def failures_end(self, *sequences: Sequence) -> Iterator[None]:
        """If the work inside fails, these sequences end and the others go on."""
        try:
            yield
        except GenAIError as error:
            for sequence in sequences:
                _log.warning("a sequence ends: %s", error)
                self.fail(sequence, error)

    def fail(self, sequence: Sequence, error: GenAIError) -> None:
        """End a sequence with an error."""
        self.end(sequence, "error", error)

    def end_job(self, job: Job, reason: FinishReason, error: GenAIError | None = None) -> None:
        """End all of a job's texts."""
        for sequence in job.sequences:
            self.end(sequence, reason, error)

    def end(self, sequence: Sequence, reason: FinishReason, error: GenAIError | None = None) -> None:
        """End a sequence without a further token; a beam ends its whole search. Ending twice does nothing."""
        if not sequence.is_over:
            self.tell(sequence.job)  # and a sink may end it
        if sequence.is_over:
            return
        if sequence.search is not None:
            self._end_search(sequence.search, reason, error)
            return
        sequence.error = sequence.error or bare(error)
        self._finished(sequence, reason)
        self.happened(TokenEvent(sequence=sequence, token=None, finish_reason=reason))

    def _end_search(self, run: BeamRun, reason: FinishReason, error: GenAIError | None) -> None:
        """The beams go, and those who asked get the best texts as they are."""
        for beam in (*run.beams, *run.spare):
            beam.forks = []
            beam.become(State(reason))
            self._scheduler.remove(beam)
            with _failures_logged():
                self._rows.release(beam)
        endings = run.finish(reason) if error is None else [reason] * len(run.results)
        for result in run.results:
            result.error, result.search = bare(error), None  # from now on a text like any other
        for result, ending in zip(run.results, endings, strict=True):
            self._tell(result, ending)
        if self._metrics and (num_tokens := sum(len(result.generated) for result in run.results)):
            self._metrics.saw_first_token(time.perf_counter() - run.results[0].timeline.submitted)
            self._metrics.saw_tokens(num_tokens - 1)

    def _tell(self, result: Sequence, ending: FinishReason) -> None:
        """Report a text that was found whole, token by token, as long as its sink takes it."""
        tokens = result.generated
        del result.tokens[result.num_prompt :]
        for token in tokens[:-1]:
            result.tokens.append(token)
            self.happened(TokenEvent(sequence=result, token=token, finish_reason=None))
            if result.is_over:
                return
        result.tokens += tokens[-1:]
        self.happened(TokenEvent(sequence=result, token=tokens[-1] if tokens else None, finish_reason=ending))

    def _finished(self, sequence: Sequence, reason: FinishReason) -> None:
        """Free what an ended sequence holds. The first reason stays."""
        if sequence.is_over:
            return
        sequence.become(State(reason))
        sequence.timeline.finished = time.perf_counter()
        self._scheduler.remove(sequence)
        with _failures_logged():
            if sequence.row is not None and reason in {"stop", "length"}:
                if sequence.may_grow:
                    self._rows.put_aside(sequence)
                else:
                    self._rows.remember(sequence)
                self._rows.retire(sequence)
        with _failures_logged():
            self._rows.release(sequence)  # what did not end well, and where remembering it failed
        if sequence.drafter is not None:
            with _failures_logged():
                sequence.drafter.close()
        for fork in sequence.forks:  # it ended before they could have its prompt
            self._scheduler.add(fork)
        sequence.forks = []
        if sequence.job is not None and sequence.job.is_over:
            self.jobs.discard(sequence.job)
            if self._metrics:
                self._metrics.saw_end(reason, sequence.timeline.finished - sequence.timeline.submitted)


class _UndeliveredError(Exception):
    """A sink took an event in, and failed when it was delivered."""

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error


class _Telling:
    """Tokens that are told beside a run; verdicts: what their sinks say, in order. What ends is not delivered here."""

    def __init__(self, events: list[TokenEvent], constrained: list[Sequence], told: Callable[[], object]) -> None:
        self.events = events
        self.verdicts: list[bool | Exception] = []
        self._constrained = constrained
        self._told = told

    def run(self) -> None:
        """On the other thread."""
        for event in self.events:
            self.verdicts.append(_told(event))
        if self.events:
            self._told()
        for sequence in self._constrained:
            with contextlib.suppress(GenAIError):  # raised again where the mask is needed
                sequence.sampler.mask()


def _told(event: TokenEvent) -> bool | Exception:
    sink = _sink_of(event)
    assert sink is not None, "what nobody follows is not late"
    if verdict := _judge(sink, event):
        return verdict
    try:
        sink.deliver(event)
    except Exception as error:
        return _UndeliveredError(error)
    return False


def _judge(sink: Sink, event: TokenEvent) -> bool | Exception:
    try:
        return sink.accept(event)
    except Exception as error:
        return error


def _sink_of(event: TokenEvent) -> Sink | None:
    job = event.sequence.job
    return None if job is None else job.sink
