"""One run of prompts: which of those whose turn it is go together, and the logits that follow each.

Rows that lie side by side in a group may share a run, padded to the longest: short prompts share a pass over the
weights. Whether that is cheaper than a run for each, the capacity policy says.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from genai.decoding.logprobs import token_logprob
from genai.decoding.processors import FloatArray
from genai.engine.consumers import Pool
from genai.engine.rows import row_of
from genai.engine.sequence import Sequence
from genai.runtime.layout import Group
from genai.runtime.runner import Runner


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """The next tokens of a prompt. is_cut: they end where its states are to be put aside."""

    sequence: Sequence
    tokens: abc.Sequence[int]
    is_cut: bool = False

    @property
    def row(self) -> int:
        """Whose they are."""
        return row_of(self.sequence)

    @property
    def may_share(self) -> bool:
        """Whether they may be run with others'."""
        return not (self.sequence.needs_all or self.sequence.runs_alone)


def context_of(pieces: abc.Sequence[Piece]) -> float:
    """How many tokens stand before one of these, on average."""
    lengths = [len(piece.tokens) for piece in pieces]
    before = sum(
        length * (piece.sequence.num_computed + length / 2) for piece, length in zip(pieces, lengths, strict=True)
    )
    return before / sum(lengths)


class PrefillStep:
    """Runs pieces of prompts, each row having room for its piece."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._cache = runner.cache

    def together(self, pieces: abc.Sequence[Piece]) -> list[Piece]:
        """The first piece, and those that are cheaper run with it than apart."""
        by_row = {piece.row: piece for piece in pieces}
        group = next(group for group in self._cache.groups if pieces[0].row in group.rows)
        start = group.rows.index(pieces[0].row)
        end = start + 1
        while end < len(group.rows) and self._pays(group, group.rows[start : end + 1], by_row):
            end += 1
        while start and self._pays(group, group.rows[start - 1 : end], by_row):
            start -= 1
        return [by_row[row] for row in group.rows[start:end]]

    def run(self, pieces: abc.Sequence[Piece]) -> dict[Sequence, FloatArray]:
        """Run pieces that `together` chose; returns the logits [V] that follow each, valid until the next run.

        A prompt whose logits are not finite beside others is left as it is, and left out.
        Raises: NotFiniteError for one that is alone; GraphRunError.
        """
        is_alone = len(pieces) == 1
        logits = {pieces[0].sequence: self._run_alone(pieces[0])} if is_alone else self._run_together(pieces)
        for piece in pieces:
            if piece.sequence in logits:
                piece.sequence.num_computed += len(piece.tokens)
        return logits

    def _run_together(self, pieces: abc.Sequence[Piece]) -> dict[Sequence, FloatArray]:
        logits = self._runner.prefill_rows([piece.row for piece in pieces], [piece.tokens for piece in pieces])
        return {piece.sequence: own for piece, own in zip(pieces, logits, strict=True) if not np.isnan(own[0])}

    def _run_alone(self, piece: Piece) -> FloatArray:
        if not piece.sequence.needs_all:
            return self._runner.prefill_chunk(piece.row, piece.tokens)
        scored = self._runner.run_row(piece.row, piece.tokens, len(piece.tokens))
        _note_prompt(piece.sequence, scored)
        last: FloatArray = scored[-1]
        return last

    def _pays(self, group: Group, rows: abc.Sequence[int], by_row: Mapping[int, Piece]) -> bool:
        """Whether these rows of a group all have something to run, room for it padded, and gain by one run."""
        if not all(row in by_row and by_row[row].may_share for row in rows):
            return False
        valid, lengths = [self._cache.valid(row) for row in rows], [len(by_row[row].tokens) for row in rows]
        longest = max(lengths)
        is_full = max(valid) + longest > self._cache.capacity(rows[0])
        if is_full or longest > self._runner.most_tokens(len(rows), group.capacity):
            return False
        return self._cache.policy.shares_run([*map(self._cache.slots, valid)], lengths, group.capacity)


def _note_prompt(sequence: Sequence, logits: FloatArray) -> None:
    """What is asked for of the tokens just run: what the graph gives there, or log probabilities of those that follow.

    The first token has no log probability.
    """
    if isinstance(sequence.consumer, Pool):
        sequence.consumer.see(sequence.num_computed, logits)
        return
    notes, count = sequence.prompt_logprobs, sequence.config.prompt_logprobs or 0
    if not notes:
        notes.append(None)
    for offset, row in enumerate(logits, start=1):
        place = sequence.num_computed + offset
        if place == len(notes) and place < sequence.num_prompt:
            notes.append(token_logprob(row, sequence.tokens[place], count))
