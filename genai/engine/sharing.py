"""Which prompts share a step's tokens, who gets a row for that, and who has to give way for it."""

from __future__ import annotations

from collections import abc
from typing import TYPE_CHECKING

from genai.engine.sequence import Sequence

if TYPE_CHECKING:
    from genai.engine.rows import Rows
    from genai.engine.scheduler import Pace, Scheduler

AGING_SECONDS = 10.0
"""After waiting this long a sequence counts as one priority level higher."""
MAX_PARTIAL = 2
"""Prompts that are begun although they will not be done within a step, unless they are the shortest: rows are few."""
_MIN_PIECE = 16
"""A prompt is not given less of a step, unless that completes it: a run reads all of its row, which takes as long as 14
tokens of it do (SmolLM2, at any length)."""
_MIN_SHARED = 16
"""Tokens that two prompts must have in common for one to wait for the other's."""


def level(sequence: Sequence, now: float) -> float:
    """A sequence's priority, raised by how long it has waited."""
    return sequence.priority - sequence.timeline.waited(now) // AGING_SECONDS


def rank(sequence: Sequence, now: float) -> tuple[float, float]:
    """Smaller is preempted later."""
    return level(sequence, now), sequence.timeline.submitted


def by_priority(sequence: Sequence) -> tuple[float, int, float]:
    """The order of those whose prompts are run: by priority, then the least left, then the oldest."""
    return sequence.priority, sequence.num_left, sequence.timeline.submitted


def by_level(sequence: Sequence, now: float) -> tuple[float, int, float]:
    """The same, by level."""
    return level(sequence, now), sequence.num_left, sequence.timeline.submitted


def needs_at_the_fullest(texts: abc.Sequence[Sequence], headroom: int) -> list[int]:
    """What texts need when they need most at once, if each grows by `headroom` tokens, or fewer if it ends before.

    Who ends leaves its room to the others: all at their longest, at once, they never are.
    """
    ends = {each: headroom if each.is_paused else each.max_tokens - each.need for each in texts}
    moments = {headroom, *(end for end in ends.values() if end < headroom)}
    needs = (
        [each.need + (0 if each.is_paused else moment) for each in texts if ends[each] >= moment] for moment in moments
    )
    return max(needs, key=sum)


class Sharing:
    """One step's work on prompts, being shared out: tokens, of which one costs the more the more stand before it.

    work: how much there is, in tokens at the beginning of a text; shares: tokens for each prompt; admitted: who gets a
    row; preempted: who loses it.
    """

    def __init__(
        self, scheduler: Scheduler, rows: Rows, now: float, pace: Pace, work: float, *, may_admit: bool
    ) -> None:
        self.shares: dict[Sequence, int] = {}
        self._work_left = work
        self._pace = pace
        self.admitted: list[Sequence] = []
        self.preempted: list[Sequence] = []
        self._scheduler = scheduler
        self._rows = rows
        self._now = now
        self._may_admit = may_admit
        self._homeless: Sequence | None = None  # who has found no room

    def share_out(self) -> None:
        """Give half by level, then what is left by priority."""
        candidates = [each for each in self._scheduler.running if each.is_prefilling and not each.is_paused]
        if self._may_admit and self._has_places():
            candidates += [each for each in self._scheduler.waiting if not each.is_paused]
        half = (min(self._work_left, self._tokens_left) + 1) // 2
        self._give(sorted(candidates, key=lambda each: by_level(each, self._now)), half, None)
        order = sorted(candidates, key=by_priority)
        self._give(order, self._work_left, order[0] if order else None)

    @property
    def num_left(self) -> int:
        """Tokens at the beginning of a text that nobody has."""
        return max(min(int(self._work_left), self._tokens_left), 0)

    @property
    def _tokens_left(self) -> int:
        return self._scheduler.limits.prefill_chunk - sum(self.shares.values())

    def _each(self, sequence: Sequence) -> float:
        """The work of a prompt's next token."""
        return self._pace.work(len(sequence.tokens) - sequence.num_left + self.shares.get(sequence, 0))

    def _give(self, order: abc.Sequence[Sequence], work: float, first: Sequence | None) -> None:
        """Share work out in this order, as far as it goes. first: may begin however many others have."""
        for sequence in order:
            if work < 1 or not self._tokens_left:
                return
            wanted, each = sequence.num_left - self.shares.get(sequence, 0), self._each(sequence)
            is_alone = not self.shares.keys() - {sequence}
            share = min(wanted, self._tokens_left, max(int(work / each), _MIN_PIECE if is_alone else 1))
            is_scrap = not is_alone and share < wanted and share * each < _MIN_PIECE
            if not share or is_scrap or sequence in self.preempted:
                continue
            if sequence not in self.admitted and sequence.row is None:
                may_begin = share == wanted or sequence is first or self._num_partial() < MAX_PARTIAL
                if not (may_begin and self._admits(sequence)):
                    continue
            self.shares[sequence] = self.shares.get(sequence, 0) + share
            self._work_left -= share * each
            work -= share * each

    def _num_partial(self) -> int:
        """Prompts that are begun and will not be done within this step."""
        return sum(
            each.is_prefilling and not each.is_paused and each.num_left > self.shares.get(each, 0)
            for each in self._scheduler.running
        )

    def _has_places(self) -> bool:
        """Whether anybody could get a row, were there memory."""
        running, waiting = self._scheduler.running, self._scheduler.waiting
        if len(running) < self._scheduler.limits.max_batch or any(each.is_paused for each in running):
            return True
        last = max(level(each, self._now) for each in running)
        return any(each.priority < last for each in waiting)

    def _admits(self, newcomer: Sequence) -> bool:
        """Give a newcomer a row, if there is room or somebody has to make it."""
        if not self._may_admit or self._has_to_queue(newcomer) or self._will_know_more(newcomer):
            return False
        victims = self._victims(newcomer)
        if victims is None:
            self._homeless = newcomer
            return False
        for victim in victims:
            self._scheduler.preempt(victim)
            share = self.shares.pop(victim, 0)
            self._work_left += share * self._each(victim)
        self.preempted += victims
        self._scheduler.waiting.remove(newcomer)
        self._scheduler.adopt(newcomer)
        self.admitted.append(newcomer)
        return True

    def _has_to_queue(self, newcomer: Sequence) -> bool:
        """Whether a newcomer is behind somebody who has found no room, who would be overtaken for ever otherwise.

        One of a higher priority is not, as long as somebody runs whose row it might take.
        """
        if self._homeless is None:
            return False
        is_higher = newcomer.priority < self._homeless.priority
        return not (is_higher and any(self._is_lower(each, newcomer) for each in self._scheduler.running))

    def _is_lower(self, running: Sequence, newcomer: Sequence) -> bool:
        """Whether a newcomer may take somebody's row: waiting brings it before others in line, and takes nobody's."""
        return level(running, self._now) > newcomer.priority and running not in self.admitted

    def _victims(self, newcomer: Sequence) -> list[Sequence] | None:
        """Who has to give way to a newcomer: none, as few as will do, or None if all that may are not enough.

        Those who are paused go first, then those whose level is lower than the newcomer's priority.
        """
        stay: list[Sequence] = []
        may_go: list[Sequence] = []
        for each in self._scheduler.running:
            (may_go if each.is_paused or self._is_lower(each, newcomer) else stay).append(each)
        if self._scheduler.refused == (newcomer, *stay):
            return None
        if not self._fits(newcomer, stay):
            self._scheduler.refused = (newcomer, *stay)
            return None
        if not may_go:
            return []
        may_go.sort(key=lambda each: (each.is_paused, rank(each, self._now)))
        victims: list[Sequence] = []
        while not self._fits(newcomer, [*stay, *may_go]):
            victims.append(may_go.pop())
        return victims

    def _fits(self, newcomer: Sequence, others: abc.Sequence[Sequence]) -> bool:
        """Whether a newcomer may run beside others: with room for all to grow, or some would soon lose their rows."""
        if not others:
            return self._rows.num_worth_running([newcomer.need]) == 1
        if len(others) >= self._scheduler.limits.max_batch:
            return False
        return self._rows.has_room(needs_at_the_fullest((*others, newcomer), self._rows.headroom))

    def _will_know_more(self, newcomer: Sequence) -> bool:
        """Whether a prompt that is being run has as few tokens left as it will spare a newcomer, or fewer."""
        if not self._rows.remembers or newcomer.needs_all:
            return False
        num_known = len(newcomer.tokens) - newcomer.num_left
        for each in self._scheduler.running:
            end = num_known + (_MIN_SHARED if self._rows.has_states else max(each.num_left, _MIN_SHARED))
            has_more = each.is_prefilling and not each.is_paused and end < len(newcomer.tokens)
            is_same = has_more and newcomer.adapter == each.adapter and newcomer.tokens[:end] == each.tokens[:end]
            if is_same and self._rows.will_know(newcomer, each):
                return True
        return False
