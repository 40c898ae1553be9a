"""Who runs in the next step: admission, preemption and the share of prefill, in plain Python.

    waiting ──admit──► running (prefilling ──► decoding) ──► ended
       ▲                  │
       └─────preempt──────┘   tokens kept, row freed; resumed by prefilling them again

First come first served within a priority; waiting raises a sequence by one level every `AGING_SECONDS`, so nothing
starves. When memory runs out the youngest of the lowest priority gives way. What is paused keeps its row only while
nobody else needs it: it gives way first, and waits until it may run again.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from genai.engine.sequence import Sequence, State

if TYPE_CHECKING:
    from genai.engine.rows import Rows

AGING_SECONDS = 10.0
"""After waiting this long a sequence counts as one priority level higher."""
MIN_CHUNK = 32
STALL = 2.0
"""A prefill chunk beside running streams takes at most this many decode steps' time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """max_batch: sequences that run together; max_seq_len: tokens of one; prefill_chunk: tokens of one prefill run.

    max_waiting: sequences that may wait, None for any number.
    """

    max_batch: int
    max_seq_len: int
    prefill_chunk: int
    max_waiting: int | None = None


_DRAFT_COST = 0.2
"""What one more position is taken to cost where nothing is known, as a share of a decode step."""


@dataclass(slots=True, kw_only=True)
class Pace:
    """What steps have cost lately: seconds of a decode step, and of one prefilled token.

    draft_cost: what one more position costs in a decode step, as a share of the step without it.
    """

    decode_seconds: float = 0.02
    prefill_token_seconds: float = 0.003
    draft_cost: float = _DRAFT_COST

    def saw_decode(self, seconds: float) -> None:
        """Count a decode step."""
        self.decode_seconds += 0.2 * (seconds - self.decode_seconds)
        self.draft_cost += 0.01 * (_DRAFT_COST - self.draft_cost)  # what seemed too dear is tried again some day

    def saw_draft(self, seconds: float, num_drafted: int) -> None:
        """Count a decode step whose longest draft had so many tokens."""
        cost = (seconds / self.decode_seconds - 1) / num_drafted
        cost = min(max(cost, 0.0), 1.0)  # more than a whole step only by accident
        self.draft_cost += 0.2 * (cost - self.draft_cost)

    def saw_prefill(self, seconds: float, num_tokens: int) -> None:
        """Count a prefill run."""
        self.prefill_token_seconds += 0.2 * (seconds / num_tokens - self.prefill_token_seconds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One step: who lost its row, who cannot go on, who gets a row, whose prompt advances by how much, who decodes."""

    expired: list[Sequence] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)
    exhausted: list[Sequence] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)
    prefill: tuple[Sequence, int] | None = None
    decoding: list[Sequence] = field(default_factory=list)


class Scheduler:
    """Keeps the waiting and the running, and plans steps. Knows sequences only by length, priority and time."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence."""
        self.waiting.append(sequence)

    def adopt(self, sequence: Sequence) -> None:
        """Run a sequence: it has been promised a row, or given one outside of a plan."""
        sequence.become(State.RUNNING)
        self.running.append(sequence)

    def preempt(self, sequence: Sequence) -> None:
        """Send a running sequence back to wait for a row; a pause goes on."""
        if not sequence.is_paused:
            sequence.become(State.WAITING)
        self.running.remove(sequence)
        self.waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence that has ended."""
        for queue in (self.waiting, self.running):
            if sequence in queue:
                queue.remove(sequence)

    def plan(self, rows: Rows, pace: Pace, now: float) -> Plan:
        """The next step; waiting and running are changed to match. The caller ends what is expired or exhausted."""
        expired = [
            each for each in (*self.waiting, *self.running) if each.deadline is not None and each.deadline <= now
        ]
        for sequence in expired:
            self.remove(sequence)
        preempted, exhausted = self._make_room(rows, now)
        admitted: list[Sequence] = []
        if not preempted:
            preempted, admitted = self._admit(rows, now)
        active = [sequence for sequence in self.running if not sequence.is_paused]
        decoding = [sequence for sequence in active if not sequence.is_prefilling]
        return Plan(
            expired=expired,
            preempted=preempted,
            exhausted=exhausted,
            admitted=admitted,
            prefill=self._prefill(active, len(decoding), pace),
            decoding=decoding,
        )

    def _make_room(self, rows: Rows, now: float) -> tuple[list[Sequence], list[Sequence]]:
        """Preempt until those that run have room for their next token; the last one ends if even it has none."""
        if all(rows.fits_next_token(sequence) for sequence in self.running):
            return [], []
        order = sorted(self.running, key=lambda each: (each.is_paused, self._rank(each, now)))
        count = rows.num_worth_running([sequence.need for sequence in order])
        preempted = order[max(count, 1) :][::-1]
        for victim in preempted:
            self.preempt(victim)
        exhausted = order[:1] if not count else []
        for sequence in exhausted:
            self.running.remove(sequence)
        return preempted, exhausted

    def _admit(self, rows: Rows, now: float) -> tuple[list[Sequence], list[Sequence]]:
        """A row for who is first in line; returns what is paused and had to give way, and who got rows.

        Prompts are prefilled one at a time, so the next gets its row when the last has its first token: a row that only
        waits would be computed in every decode step of its group.
        """
        preempted: list[Sequence] = []
        admitted: list[Sequence] = []
        idle = sorted((each for each in self.running if each.is_paused), key=lambda each: self._rank(each, now))
        busy = [each for each in self.running if not each.is_paused]
        while not any(each.is_prefilling for each in busy):
            ready = [each for each in self.waiting if not each.is_paused]
            if not ready:
                break
            first = min(ready, key=lambda each: self._rank(each, now))
            if not self._fits(first, busy, rows):
                break
            while not self._fits(first, [*busy, *idle], rows):
                self.preempt(idle[-1])
                preempted.append(idle.pop())
            self.waiting.remove(first)
            self.adopt(first)
            busy.append(first)
            admitted.append(first)
        return preempted, admitted

    def _fits(self, newcomer: Sequence, others: abc.Sequence[Sequence], rows: Rows) -> bool:
        """Whether a newcomer may run beside others: with room for all to grow, or some would soon lose their rows."""
        if not others:
            return rows.num_worth_running([newcomer.need]) == 1
        needs = [
            each.need if each.is_paused else min(each.need + rows.headroom, each.max_tokens)
            for each in (*others, newcomer)
        ]
        return len(others) < self.limits.max_batch and rows.num_worth_running(needs) == len(needs)

    def _prefill(self, active: Iterable[Sequence], num_decoding: int, pace: Pace) -> tuple[Sequence, int] | None:
        """The first prompt that is not in the cache yet, and how much of it: little while others decode."""
        sequence = next((each for each in active if each.is_prefilling), None)
        if sequence is None:
            return None
        chunk = self.limits.prefill_chunk
        if num_decoding:
            affordable = int(STALL * pace.decode_seconds / pace.prefill_token_seconds)
            chunk = min(chunk, max(MIN_CHUNK, affordable // MIN_CHUNK * MIN_CHUNK))
        return sequence, min(chunk, len(sequence.tokens) - sequence.num_computed)

    @staticmethod
    def _rank(sequence: Sequence, now: float) -> tuple[float, float]:
        """Smaller comes first and is preempted last."""
        waited = now - sequence.timeline.submitted
        return sequence.priority - waited // AGING_SECONDS, sequence.timeline.submitted
