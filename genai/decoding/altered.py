"""Logits after all options but the filters, without copies of whole vocabularies.

Options change few of a row's tokens: these are changed in the row itself, and put back when whoever looked at it is
done. Only a mask needs an array of its own, which all rows of a step take in turn.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np

from genai.decoding import processors
from genai.decoding.history import Changes
from genai.decoding.processors import BoolArray, FloatArray, IntArray

_Change: TypeAlias = tuple[IntArray, FloatArray, FloatArray]


class Scratch:
    """Memory that the rows of a step use in turn, so that it is not had anew, and zeroed, for each; float32.

    masked: [V], a row less what a mask rules out; work: [2, V], for whoever looks at a row.
    """

    def __init__(self, vocab_size: int) -> None:
        self.masked, self.work = np.empty(vocab_size, np.float32), np.empty((2, vocab_size), np.float32)


class Altered:
    """A row of logits [V] with changes and a mask applied: a context, in which nobody else may read the row.

    change: which tokens change, their values before and after, [n] each.
    """

    def __init__(self, row: FloatArray, mask: BoolArray | None, change: _Change | None, scratch: Scratch) -> None:
        self._row = row if change is None or row.flags.writeable else row.copy()
        self._mask = mask
        self._change = change
        self._scratch = scratch

    def __enter__(self) -> FloatArray:
        if self._change is not None:
            tokens, _, new = self._change
            self._row[tokens] = new
        return self._row if self._mask is None else processors.rule_out(self._row, self._mask, self._scratch.masked)

    def __exit__(self, *error: object) -> None:
        if self._change is not None:
            tokens, old, _ = self._change
            self._row[tokens] = old


def altered(
    logits: Sequence[FloatArray], changes: Sequence[Changes | None], masks: Sequence[BoolArray | None], scratch: Scratch
) -> list[Altered]:
    """Each row of logits [V]; several may be the same one. What changes is computed for all of them at once."""
    changed = _changed([(row, change) for row, change in zip(logits, changes, strict=True) if change is not None])
    return [
        Altered(row, mask, None if change is None else next(changed), scratch)
        for row, change, mask in zip(logits, changes, masks, strict=True)
    ]


def _changed(rows: Sequence[tuple[FloatArray, Changes]]) -> Iterator[_Change]:
    """Each row's changed tokens, with their values before and after."""
    if not rows:
        return
    olds = [row.take(change.tokens) for row, change in rows]
    bias, penalty, cost = np.concatenate([change.columns for _, change in rows], axis=1)
    news = processors.changed(np.concatenate(olds), bias, penalty, cost)
    ends = itertools.accumulate(old.size for old in olds)
    for end, old, (_, change) in zip(ends, olds, rows, strict=True):
        yield change.tokens, old, news[end - old.size : end]
