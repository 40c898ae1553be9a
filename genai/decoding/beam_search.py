"""Beam search: several continuations of one prompt, compared after each token by their summed log probability.

One step of a group of three beams (V tokens each could take):

    live beams      a ──┬── a·x   best       ┐ 2 × size candidates (more with several end-of-sequence tokens),
                    b ─┬┴── a·y              │ so that `size` of them go on even if every beam could also end
                    c  ├─── b·eos  → finished┘ if it is among the `size` best, and not counted otherwise
                       └─── b·x              → live: a·x, a·y, b·x

Candidates, finished beams, length penalty and stopping are those of transformers 5 (`GenerationMixin._beam_search`);
lengths count generated tokens only. Groups search one after another in each step, and a group's candidates lose
`diversity_penalty` for each beam of an earlier group that has just taken the same token: Hamming diversity,
arXiv 1610.02424, as in transformers 4, where the penalty stays in the sum.

Where fewer continuations are possible than there are beams (a small vocabulary, a constraint), transformers fills up
with beams of score -1e9; here the search goes on with fewer.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genai.decoding.candidates import best_tokens
from genai.decoding.processors import FloatArray
from genai.errors import ConfigError
from genai.options.generation_config import BeamSearchConfig

_MAX_LOG_SCALE = 80.0
"""Largest |log| of a length penalty's factor: beyond, scores leave float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Branch:
    """How a live beam comes about: the beam (a row of the last scores) that it continues, and with which token."""

    parent: int
    token: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Hypothesis:
    """A text that the search has found.

    tokens: generated, with the end-of-sequence token if it has one; score: summed log probability (less diversity
    penalties) / length ** length_penalty; is_finished: ended by an end-of-sequence token, not by the limit.
    """

    tokens: tuple[int, ...]
    score: float
    is_finished: bool


@dataclass(frozen=True, slots=True)
class _Beam:
    """tokens: generated; score: summed log probability, float32 as in transformers so that ties fall alike."""

    tokens: tuple[int, ...]
    score: np.float32


class BeamSearch:
    """The search for one prompt; the caller runs the model.

    eos_token_ids: tokens that finish a beam; max_new_tokens: length at which live beams end unfinished.
    Raises: ConfigError for a length penalty whose scores would not be numbers.
    """

    def __init__(self, config: BeamSearchConfig, eos_token_ids: frozenset[int], max_new_tokens: int) -> None:
        if abs(config.length_penalty) * math.log(max(max_new_tokens, 1)) > _MAX_LOG_SCALE:
            raise ConfigError(
                f"length_penalty={config.length_penalty}: {max_new_tokens} tokens to that power are beyond float32; "
                "take one nearer to 0"
            )
        self._config = config
        self._max_new_tokens = max_new_tokens
        size = config.num_beams // config.num_beam_groups
        self._groups = [_Group(config, size, eos_token_ids, max_new_tokens) for _ in range(config.num_beam_groups)]
        self._num_steps = 0

    @property
    def is_done(self) -> bool:
        """Whether no further step would change the result."""
        return self._num_steps >= self._max_new_tokens or all(group.is_done for group in self._groups)

    def step(self, scores: FloatArray, are_complete: Sequence[bool] = ()) -> list[Branch]:
        """Take the log probabilities of every live beam's next token; returns the next live beams, [] when done.

        scores: [live beams, V] float32, processed, -inf for what must not come, left as they are; in the order of the
        branches that the last step returned, at most num_beams. In the first step all rows are the prompt's, and one
        is enough. are_complete: beams that end as they are, without a token. Branches stand group by group, the best of
        each group first.
        Raises: ValueError for another number of rows.
        """
        self._num_steps += 1
        num_live = [len(group.live) for group in self._groups]
        starts = np.cumsum([0, *num_live]).tolist()
        if self._num_steps == 1:
            starts, scores = [0] * len(starts), scores[:1]
        elif len(scores) != starts[-1]:
            raise ValueError(f"{len(scores)} rows of scores for {starts[-1]} live beams")
        branches: list[Branch] = []
        taken: Counter[int] = Counter()
        for group, start, rows in zip(self._groups, starts, num_live, strict=False):
            if not group.is_done:
                group.finish(are_complete[start : start + rows])
                chosen = group.step(scores[start : start + rows], start, taken)
                taken.update(branch.token for branch in chosen)
                branches += [] if group.is_done else chosen
        return [] if self.is_done else branches

    def best(self) -> list[Hypothesis]:
        """The num_return_sequences best texts, best first; fewer if the search found no more.

        Before the search is done: the best so far, live beams included.
        """
        found = [hypothesis for group in self._groups for hypothesis in group.hypotheses()]
        return _best(found, self._config.num_return_sequences)


class _Group:
    """Beams that are compared with each other.

    live: best first; at the beginning one, the prompt itself. is_done: no live beam can improve what is finished.
    """

    def __init__(self, config: BeamSearchConfig, size: int, eos: frozenset[int], max_new_tokens: int) -> None:
        self.live = [_Beam((), np.float32(0))]
        self.is_done = False
        self._config = config
        self._size = size
        self._eos = eos
        self._max_new_tokens = max_new_tokens
        self._finished: list[Hypothesis] = []

    def finish(self, are_complete: Sequence[bool]) -> None:
        """Count live beams as finished that cannot go on; no token of theirs has a score."""
        self._finished += [
            self._hypothesis(beam, is_finished=True)
            for beam, is_complete in zip(self.live, are_complete, strict=False)
            if is_complete
        ]

    def step(self, scores: FloatArray, start: int, taken: Counter[int]) -> list[Branch]:
        """How the live beams continue, even if that makes the group done.

        start: the row of the first; taken: tokens that beams of earlier groups have just taken, counted.
        """
        totals = scores + np.array([beam.score for beam in self.live], np.float32)[:, None]
        for token, count in taken.items():
            totals[:, token] -= np.float32(self._config.diversity_penalty * count)
        flat = totals.reshape(-1)
        branches: list[Branch] = []
        live: list[_Beam] = []
        candidates = best_tokens(flat, max(2, 1 + len(self._eos)) * self._size)
        for rank, index in enumerate(candidates):
            parent, token = divmod(index, totals.shape[1])
            beam = _Beam((*self.live[parent].tokens, token), flat[index])
            if token not in self._eos:
                live.append(beam)
                branches.append(Branch(parent=start + parent, token=token))
                if len(live) == self._size:
                    break
            elif rank < self._size:
                self._finished.append(self._hypothesis(beam, is_finished=True))
        self._finished = _best(self._finished, self._size)
        self.live = live
        self.is_done = not live or self._cannot_improve(flat[candidates[0]])
        if self.is_done:
            self.live = []
        return branches

    def hypotheses(self) -> list[Hypothesis]:
        """At most as many texts as there are beams, best first. Live beams count until the group is done."""
        unfinished = [self._hypothesis(beam, is_finished=False) for beam in self.live if beam.tokens]
        return _best([*self._finished, *unfinished], self._size)

    def _hypothesis(self, beam: _Beam, *, is_finished: bool) -> Hypothesis:
        score = beam.score / np.float32(max(len(beam.tokens), 1) ** self._config.length_penalty)
        return Hypothesis(tokens=beam.tokens, score=float(score), is_finished=is_finished)

    def _cannot_improve(self, best_candidate: np.float32) -> bool:
        """The stop criteria. HEURISTIC takes a live beam's score at its present length for the best it can reach.

        The sum that might still improve is the best live beam's, and with groups, as in transformers 4, the best
        candidate's, which may just have ended. In the last step live beams end too, and count.
        """
        best, penalty = self.live[0], self._config.length_penalty
        if len(self._finished) < self._size or len(best.tokens) == self._max_new_tokens:
            return False
        if self._config.stop_criteria == "EARLY":
            return True
        total = best_candidate if self._config.num_beam_groups > 1 else best.score
        is_longer_better = self._config.stop_criteria == "NEVER" and penalty > 0
        length = self._max_new_tokens if is_longer_better else len(best.tokens)
        return float(total / np.float32(length**penalty)) <= self._finished[-1].score


def _best(hypotheses: list[Hypothesis], count: int) -> list[Hypothesis]:
    return sorted(hypotheses, key=lambda hypothesis: -hypothesis.score)[:count]
