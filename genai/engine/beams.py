"""Beam search over rows: beams are sequences that wait for each other, and share what they have in common.

    step n      beam 0  a b c      beam 1  a b d      beam 2  a e f
                  │   └───────┐      (dropped)          │
    step n+1    beam 0  a b c x    beam 1  a b c y    beam 2  a e f z
                                   ↑ only "c" is copied into its row: "a b" is there already

A beam that has its logits pauses until the others have theirs: they may be in another group, or waiting for a row. What
was dropped gives its sequence and its row to a beam that forks, and only tokens that differ are copied.
"""

from __future__ import annotations

from collections import abc

import numpy as np

from genai.decoding.beam_search import BeamSearch, Branch
from genai.decoding.processors import FloatArray
from genai.decoding.sampler import scores
from genai.engine.sequence import FinishReason, Sequence, State
from genai.errors import CapacityError
from genai.runtime.cache import KVCache


class BeamRun:
    """The beams of one job; a `Consumer` of their logits.

    beams: the sequences that run, in the order of the search; spare: those that wait to become a beam again, with
    the rows they had; results: the sequences that get the texts in the end.
    """

    can_draft = False
    needs_all = False

    def __init__(self, search: BeamSearch, beams: abc.Sequence[Sequence], results: abc.Sequence[Sequence]) -> None:
        self.search = search
        self.beams = list(beams)
        self.spare: list[Sequence] = []
        self.results = list(results)
        self._logits: dict[Sequence, FloatArray] = {}

    @property
    def is_ready(self) -> bool:
        """Whether every beam has its logits."""
        return len(self._logits) == len(self.beams)

    def take(self, sequence: Sequence, logits: FloatArray) -> State | None:
        """Keep the logits [V] that follow a beam; it pauses."""
        self._logits[sequence] = logits.copy()
        return State.BEAMS_BEHIND

    def advance(self, cache: KVCache) -> list[Sequence]:
        """Choose how the beams go on and lay out their rows; returns beams whose row could not be made to fit.

        Nothing changes when the search is over, which without a token to choose it is from the beginning.
        """
        if self.search.is_done:
            return []
        logits = [self._logits[beam] for beam in self.beams]
        self._logits.clear()
        samplers = [beam.sampler for beam in self.beams]
        branches = self.search.step(scores(samplers, logits), [sampler.is_complete for sampler in samplers])
        return [] if self.search.is_done else self._branch(branches, cache)

    def finish(self, reason: FinishReason) -> list[FinishReason]:
        """Give the best texts to those that were asked for; returns how each ended, `reason` if not by itself."""
        prompt = self.beams[0].tokens[: self.beams[0].num_prompt]
        best = self.search.best()
        for result, text in zip(self.results, best, strict=False):
            result.tokens = [*prompt, *text.tokens]
            result.score = text.score
        for result in self.results:
            result.prompt_logprobs = self.beams[0].prompt_logprobs
        endings: list[FinishReason] = ["stop" if text.is_finished else reason for text in best]
        return [*endings, *[reason] * (len(self.results) - len(best))]

    def _branch(self, branches: abc.Sequence[Branch], cache: KVCache) -> list[Sequence]:
        """The first branch of a beam goes on in its place; each further one takes a place that is free."""
        olds = self.beams
        parents = {branch.parent for branch in branches}
        free = [*self.spare, *(beam for index, beam in enumerate(olds) if index not in parents)]
        news: list[Sequence] = []
        homeless: list[Sequence] = []
        forked: list[tuple[Sequence, int]] = []
        taken: set[int] = set()
        for branch in branches:
            parent = olds[branch.parent]
            if branch.parent in taken:
                beam = free.pop()
                if not _fork(parent, beam, cache):
                    homeless.append(beam)
            else:
                beam = parent
                taken.add(branch.parent)
            news.append(beam)
            forked.append((beam, branch.token))
        for beam, token in forked:
            beam.tokens.append(token)
            beam.sampler.accept(token)
            beam.resume()
        self.beams, self.spare = news, free
        return homeless


def _fork(parent: Sequence, beam: Sequence, cache: KVCache) -> bool:
    """Make a dropped beam a copy of another one; False if its row cannot hold that and has to go."""
    shared = _shared(parent, beam)
    beam.tokens = list(parent.tokens)
    beam.sampler = parent.sampler.copy()
    if beam.row is None:
        return True
    shared = min(shared, beam.num_computed)
    has_less = parent.row is None or parent.num_computed <= shared
    if has_less and cache.can_keep(beam.row, shared):
        cache.truncate(beam.row, shared)
        beam.num_computed = shared
        return True
    if parent.row is None:
        return False  # it is not cut back so far
    try:
        cache.copy(parent.row, beam.row, min(shared, parent.num_computed), parent.num_computed)
    except CapacityError:
        return False
    beam.num_computed = parent.num_computed
    return True


def _shared(one: Sequence, other: Sequence) -> int:
    """How many first tokens two beams of one prompt have in common."""
    start = one.num_prompt
    size = min(len(one.tokens), len(other.tokens)) - start
    if size < 1:
        return start
    differs = np.not_equal(one.tokens[start : start + size], other.tokens[start : start + size])
    return start + (int(differs.argmax()) if differs.any() else size)
