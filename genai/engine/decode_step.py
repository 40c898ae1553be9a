"""One decode step: which runs of the graph give every sequence its next logits.

A group of rows runs once. A row that brings a draft brings several tokens, and then either its whole group runs as many
positions, or the row runs alone and its group without it, whichever the capacity policy finds cheaper.
"""

from __future__ import annotations

import logging
from collections import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

from genai.decoding.processors import FloatArray
from genai.engine.rows import row_of
from genai.engine.sequence import Sequence
from genai.errors import CapacityError, GenAIError, NotFiniteError
from genai.runtime.layout import Group
from genai.runtime.runner import Runner

_log = logging.getLogger(__name__)

Failure: TypeAlias = tuple[Sequence, GenAIError]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A sequence that decodes, and the tokens that are expected to follow its newest one."""

    sequence: Sequence
    draft: abc.Sequence[int] = ()

    @property
    def tokens(self) -> list[int]:
        """What its row takes in."""
        return [self.sequence.tokens[-1], *self.draft]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a run gave a sequence: logits [1 + drafted, V] that follow its newest token and each one of its draft.

    They are the runner's own memory, valid until the next run outside of the step.
    """

    sequence: Sequence
    logits: FloatArray
    draft: abc.Sequence[int] = ()


class DecodeStep:
    """Runs the rows of all that decode. Nothing may be freed before it is over: that would move rows about."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._cache = runner.cache

    def run(self, work: abc.Sequence[Work]) -> tuple[list[Outcome], list[Failure]]:
        """One run for each group, and for each draft that runs apart. Returns the failures, too."""
        with self._runner.logits.kept():
            return self._run(work)

    def _run(self, work: abc.Sequence[Work]) -> tuple[list[Outcome], list[Failure]]:
        outcomes: list[Outcome] = []
        failures: list[Failure] = []
        by_row = self._with_room(work, failures)
        for group in self._cache.groups:
            members = {row: by_row[row] for row in group.rows if row in by_row}
            if not members:
                continue
            apart = self._apart(group, members)
            together = {row: each for row, each in members.items() if row not in apart}
            try:
                if together:
                    outcomes += self._run_group(group, together, apart)
            except GenAIError as error:
                failures += self._failures(together, error)
            for row, each in apart.items():
                if row in self._cache.lost:  # by sitting the group's run out
                    continue
                try:
                    outcomes.append(self._run_alone(row, each))
                except GenAIError as error:
                    failures += self._failures({row: each}, error)
        return outcomes, failures

    def _with_room(self, work: abc.Sequence[Work], failures: list[Failure]) -> dict[int, Work]:
        """Work by row, every row with room for its tokens: drafts are cut to what there is."""
        by_row = {row_of(each.sequence): each for each in work}
        least = {row: each.sequence.need for row, each in by_row.items()}
        # a group's run writes behind the rows that sit it out, too
        beside = {row: self._cache.valid(row) + 1 for row in self._cache.rows if row not in by_row}
        drafted = {row: least[row] + len(each.draft) for row, each in by_row.items()}
        if not any(map(self._has_reserved, ({**beside, **drafted}, {**beside, **least}, least))):
            for row, need in least.items():
                try:
                    self._cache.reserve({row: need})
                except CapacityError as error:
                    failures += self._failures({row: by_row.pop(row)}, error)
        num_kept = 0  # states, of rows with drafts
        most = self._cache.longest_run - self._cache.policy.spare  # tokens of a run: padding comes on top
        for row, each in by_row.items():
            room = min(self._cache.capacity(row) - least[row], most - 1)
            if self._cache.has_states and num_kept >= self._cache.num_spare - 1:  # a row that runs alone needs one, too
                room = 0
            if len(each.draft) > room:
                by_row[row] = Work(sequence=each.sequence, draft=each.draft[:room])
            num_kept += bool(by_row[row].draft)
        return by_row

    def _has_reserved(self, needs: Mapping[int, int]) -> bool:
        """Try to make room in all rows of a step at once."""
        try:
            self._cache.reserve(needs)
        except CapacityError:
            return False
        return True

    def _apart(self, group: Group, members: Mapping[int, Work]) -> dict[int, Work]:
        """Members that run alone: all whose drafts are cheaper so, or all, if a row that sits the run out is full.

        Those that have to (`Sequence.runs_alone`) always do.
        """
        alone = {row: each for row, each in members.items() if each.sequence.runs_alone}
        if len(group.rows) == 1:
            return alone
        room = min(self._cache.capacity(row) - self._cache.valid(row) for row in group.rows)
        if room < 1:
            return dict(members)
        drafted = {row: each for row, each in members.items() if each.draft}
        lengths = [len(each.draft) for each in drafted.values()]
        is_longer = 1 + max(lengths, default=0) > room
        is_apart = is_longer or self._cache.policy.runs_apart(len(group.rows), lengths)
        return alone | (drafted if is_apart else {})

    def _run_group(self, group: Group, members: Mapping[int, Work], apart: dict[int, Work]) -> list[Outcome]:
        """One run of a group; rows that are no members sit it out. Whose logits are not finite joins those apart.

        Its draft, or what ran beside it, may be to blame: alone and without a draft it shows. Who has lost its states
        by that has no outcome, and begins anew (`Rows.recover`).
        """
        tokens = [members[row].tokens if row in members else () for row in group.rows]
        before = {row: self._cache.valid(row) for row in members}
        for row, each in members.items():
            if each.draft:
                self._cache.keep(row)
        logits = self._runner.advance(group, tokens)
        outcomes = []
        for index, row in enumerate(group.rows):
            if row not in members:
                continue
            each = members[row]
            if self._cache.valid(row) == before[row]:
                self._cache.drop(row)
                apart[row] = Work(sequence=each.sequence)
            elif self._cache.valid(row) > before[row]:
                own = logits[index, : len(each.tokens)]
                outcomes.append(Outcome(sequence=each.sequence, logits=own, draft=each.draft))
        return outcomes

    def _run_alone(self, row: int, each: Work) -> Outcome:
        """A run of one row; without its draft if that is to blame."""
        if each.draft:
            self._cache.keep(row)
        try:
            logits = self._runner.run_row(row, each.tokens, len(each.tokens))
        except NotFiniteError:
            if not each.draft:
                raise
            self._cache.drop(row)
            return self._run_alone(row, Work(sequence=each.sequence))
        return Outcome(sequence=each.sequence, logits=logits, draft=each.draft)

    @staticmethod
    def _failures(members: Mapping[int, Work], error: GenAIError) -> list[Failure]:
        _log.warning("%d sequences end: %s", len(members), error)
        return [(each.sequence, error) for each in members.values()]
