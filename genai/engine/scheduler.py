"""Who runs in the next step: admission, preemption and the share of prefill, in plain Python.

    waiting ──admit──► running (prefilling ──► decoding) ──► ended
       ▲                  │
       └─────preempt──────┘   tokens kept, row freed; resumed by prefilling them again

A step runs so many tokens of prompts, each counted by what it costs at its context, several prompts' if need be: by
priority, then the shortest first, so that nobody short waits for somebody long. Waiting, and nothing else, raises a
sequence by one level every `AGING_SECONDS`, and half of each step's tokens go by level, so that nobody starves:

    half of the tokens        by level (priority less waiting), the least left first
    the other half, the rest  by priority as it was given, the least left first

A prompt gets its row when its first tokens are run: a row that only waits would be computed in every decode step of its
group. When memory runs short the youngest of the lowest level gives way, and so it does for who has a higher priority.
What is paused keeps its row only while nobody else needs it: it gives way first, and waits until it may run again.
"""

from __future__ import annotations

from collections import abc
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from genai.engine.sequence import Sequence, State
from genai.engine.sharing import Sharing, by_priority, rank

if TYPE_CHECKING:
    from genai.engine.rows import Rows

MIN_CHUNK = 32
STALL = 2.0
"""Prompts beside running streams take at most this many decode steps' time of a step."""
STEP_SECONDS = 0.3
"""Prompts take at most about this long of a step: so long waits who comes meanwhile."""
SHORT_TOKENS = 64
"""What is no longer is a short prompt."""
_PATIENCE = 3.0
"""Prompts take at most this many times as long of a step as a short one takes alone, which may have to wait for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """max_batch: sequences that run together; max_seq_len: tokens of one; prefill_chunk: tokens of one prefill run.

    max_waiting: sequences that may wait, None for any number.
    """

    max_batch: int
    max_seq_len: int
    prefill_chunk: int
    max_waiting: int | None = None


_FAR = 1024
"""Tokens of context where what a token costs by itself, and by its context, are taken to be as well known."""
_DRAFT_COST = 0.2
"""What one more position is taken to cost where nothing is known, as a share of a decode step."""


@dataclass(slots=True, kw_only=True)
class Pace:
    """What steps have cost lately: seconds of a decode step, and of one prefilled token at the beginning of a text.

    context_seconds: what a prefilled token costs more for each token before it, which attention reads; short_seconds:
    of a short prompt's only run; draft_cost: what one more position costs in a decode step, as a share of the step
    without it.
    """

    decode_seconds: float = 0.02
    prefill_token_seconds: float = 0.003
    context_seconds: float = 0.0
    short_seconds: float = STEP_SECONDS / _PATIENCE
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

    def saw_short(self, seconds: float) -> None:
        """Count a run of a whole prompt that is short."""
        self.short_seconds += 0.2 * (seconds - self.short_seconds)

    def saw_prefill(self, seconds: float, num_tokens: int, context: float = 0.0) -> None:
        """Count a prefill run; a short one says little of a long one, which shares a pass over the weights.

        context: how many tokens stand before each of them, on average. What the run took more than was expected is
        shared out to both costs, as their parts in it are (normalised least mean squares).
        """
        far = context / _FAR
        expected = self.prefill_token_seconds * self.work(context)
        error = min(0.2, num_tokens / 320) * (seconds / num_tokens - expected) / (1 + far * far)
        self.prefill_token_seconds = max(self.prefill_token_seconds + error, self.prefill_token_seconds / 2)
        self.context_seconds = max(self.context_seconds + error * far / _FAR, 0.0)

    def work(self, context: float) -> float:
        """What a prompt's token costs behind so many, as so many tokens at the beginning of a text."""
        return 1 + self.context_seconds * context / self.prefill_token_seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One step: who lost its row, who cannot go on, who gets a row, whose prompt advances by how much, who decodes.

    prefill: the most urgent and shortest first; num_spare: tokens that prompts leave to others.
    """

    expired: list[Sequence] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)
    exhausted: list[Sequence] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)
    prefill: list[tuple[Sequence, int]] = field(default_factory=list)
    num_spare: int = 0
    decoding: list[Sequence] = field(default_factory=list)


class Scheduler:
    """Keeps the waiting and the running, and plans steps. Knows sequences only by length, priority and time.

    refused: who found no room, and those beside whom: what these need only grows, so that it is not asked again before
    one of them has gone.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.waiting: list[Sequence] = []
        self.running: list[Sequence] = []
        self.refused: tuple[Sequence, ...] = ()

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
        self.refused = ()
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
        num_decoding = sum(not (each.is_paused or each.is_prefilling) for each in self.running)
        sharing = Sharing(self, rows, now, pace, _budget(pace, num_decoding), may_admit=not preempted)
        sharing.share_out()
        self._keep_time(sharing.shares, now)
        return Plan(
            expired=expired,
            preempted=preempted + sharing.preempted,
            exhausted=exhausted,
            admitted=sharing.admitted,
            prefill=sorted(sharing.shares.items(), key=lambda share: by_priority(share[0])),
            num_spare=sharing.num_left,
            decoding=[each for each in self.running if not (each.is_paused or each.is_prefilling)],
        )

    def _make_room(self, rows: Rows, now: float) -> tuple[list[Sequence], list[Sequence]]:
        """Preempt who costs more than it is worth, if some have no room for their next token.

        Who has none although it is alone ends, and so does who waits and has outgrown all the room that there is.
        """
        if not self.running:
            return [], self._take_outgrown(rows)
        if all(rows.fits_next_token(sequence) for sequence in self.running):
            return [], []
        order = sorted(self.running, key=lambda each: (each.is_paused, rank(each, now)))
        count = rows.num_worth_running([sequence.need for sequence in order])
        preempted = order[max(count, 1) :][::-1]
        for victim in preempted:
            self.preempt(victim)
        exhausted = order[:1] if not count else []
        for sequence in exhausted:
            self.running.remove(sequence)
        return preempted, exhausted

    def _take_outgrown(self, rows: Rows) -> list[Sequence]:
        """Those that wait and would find no room alone: beams that had to give up their rows."""
        outgrown = [each for each in self.waiting if not (each.is_paused or rows.num_worth_running([each.need]))]
        for sequence in outgrown:
            self.waiting.remove(sequence)
        return outgrown

    def _keep_time(self, shares: abc.Container[Sequence], now: float) -> None:
        """Note who waits from now on, and who does not."""
        for sequence in self.running:
            is_served = sequence.is_paused or not sequence.is_prefilling or sequence in shares
            sequence.timeline.waits(not is_served, now)
        for sequence in self.waiting:
            sequence.timeline.waits(not sequence.is_paused, now)


def _budget(pace: Pace, num_decoding: int) -> int:
    """What prompts may take of a step, in tokens at the beginning of a text: few while others decode."""
    seconds = min(STEP_SECONDS, _PATIENCE * pace.short_seconds)
    if num_decoding:
        seconds = min(seconds, STALL * pace.decode_seconds)
    affordable = int(seconds / pace.prefill_token_seconds) // MIN_CHUNK * MIN_CHUNK
    return max(MIN_CHUNK, affordable)
