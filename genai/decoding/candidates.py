"""A row's most probable tokens, and draws from all of them, without sorting its vocabulary.

    logits [V] as a rectangle                columns whose maximum      their tokens
                                             is at least the floor      that are, too
    ┌─────────────────────────────┐
    │ · · 2 · · · · 9 · · · · · · │             2 · 9                      9
    │ · · · · · 7 · · · · · · · · │      →      · 7 ·              →       7
    │ · · 5 · · 8 · · · · · · · · │             5 8 ·                      5 8
    └─────────────────────────────┘
      · · 5 · · 8 · 9 · · · · · ·  maxima; the third largest is the floor: at least three tokens reach it

Maxima of columns are taken along memory, which costs as little as finding the one best token.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from genai.decoding.processors import BLOCK, DoubleArray, FloatArray, IntArray, block_sums

Int32Array: TypeAlias = npt.NDArray[np.int32]

_DEPTH = 64
"""Rows of the rectangle where few tokens are asked for; a vocabulary of 49k then has 768 columns."""
_SMALL = 2**16
"""Vocabularies up to which a look at all of a row's tokens costs less than finding the columns first."""
_SPARSE = 8
"""In larger ones columns are looked through alone if they are less than one in so many."""
_LOWEST = float(np.finfo(np.float32).min)
_LAST = 0xFFFFFFFF
"""Sorts behind every token."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidates:
    """All tokens of a row whose logits are at least `floor`, in no order; floor: -inf if all others are ruled out.

    tokens: [n] int64; logits: [n] float32; best: the greatest logit of the row, NaN if one is.
    """

    tokens: IntArray
    logits: FloatArray
    floor: float
    best: float


def narrowed(logits: FloatArray, num: int) -> Candidates:
    """The `num` best tokens of logits [V], ties with the last, and maybe more; fewer if all others are ruled out."""
    size = logits.size
    if num >= size:
        return Candidates(tokens=np.arange(size), logits=logits.copy(), floor=-np.inf, best=float(logits.max()))
    depth = max(1, min(_DEPTH, size // (4 * num)))
    width = size // depth
    rectangle, rest = logits[: depth * width].reshape(depth, width), logits[depth * width :]
    maxima = rectangle.max(axis=0)
    greatest = np.partition(maxima, width - num)[width - num :]
    floor, best = float(greatest[0]), float(greatest.max())
    if rest.size:
        best = float(np.maximum(rest.max(), best))  # NaN if either is
    least = max(floor, _LOWEST)
    tokens = (logits >= least).nonzero()[0] if size <= _SMALL else _reaching(logits, width, maxima, least)
    return Candidates(tokens=tokens, logits=logits[tokens], floor=floor, best=best)


def reaching(logits: FloatArray, floor: float, best: float) -> Candidates:
    """The tokens of logits [V] that are at least `floor`; best: the greatest of the logits."""
    (tokens,) = (logits >= np.float32(max(floor, _LOWEST))).nonzero()
    return Candidates(tokens=tokens, logits=logits[tokens], floor=floor, best=best)


def _reaching(logits: FloatArray, width: int, maxima: FloatArray, least: float) -> IntArray:
    """The tokens whose logits [V] are at least so great; maxima: [width], of the rectangle's columns."""
    (columns,) = (maxima >= least).nonzero()
    if columns.size * _SPARSE > width:
        return (logits >= least).nonzero()[0]
    depth = logits.size // width
    end = depth * width
    (places,) = (logits[:end].reshape(depth, width)[:, columns] >= least).ravel().nonzero()
    level, index = np.divmod(places, max(columns.size, 1))
    tokens: IntArray = level * width + columns[index]
    if end < logits.size:
        tokens = np.concatenate((tokens, end + (logits[end:] >= least).nonzero()[0]))
    return tokens


def ranked(rows: Sequence[Candidates]) -> tuple[IntArray, FloatArray]:
    """tokens and logits, both [rows, n]: each row's candidates, the best first, and of ties the first token first.

    Rows with fewer candidates are filled up at the end, with logits of -inf.
    """
    shape = len(rows), max(row.tokens.size for row in rows)
    tokens, logits = np.full(shape, _LAST), np.full(shape, -np.inf, np.float32)
    for index, row in enumerate(rows):
        tokens[index, : row.tokens.size] = row.tokens
        logits[index, : row.tokens.size] = row.logits
    bits = _ordered(np.subtract(np.float32(0), logits).view(np.int32))  # 0 - x: no negative zero, which would not tie
    keys = (bits.astype(np.int64) << 32) | tokens
    keys.sort(axis=1)
    bits = _ordered((keys >> 32).astype(np.int32))
    return keys & _LAST, np.subtract(np.float32(0), bits.view(np.float32))


def token_at(found: Candidates, values: FloatArray, place: int) -> int:
    """Which token `ranked` has at a place, from the candidates' logits alone, sorted: values [n], falling."""
    value = values[place]
    first = int(np.searchsorted(-values, -value))
    return int(found.tokens[found.logits == value][place - first])


def best_tokens(logits: FloatArray, count: int) -> list[int]:
    """The `count` tokens with the largest logits [V], best first, the first of equal ones; none that is -inf."""
    if count < 1:
        return []
    tokens, ordered = ranked([narrowed(logits, count)])
    best: list[int] = tokens[0, :count][ordered[0, :count] > -np.inf].tolist()
    return best


def _ordered(bits: Int32Array) -> Int32Array:
    """The bits of floats as whole numbers in the floats' order, and back."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def drawn(weights: DoubleArray, shares: DoubleArray) -> IntArray:
    """[rows]: the places in weights [rows, n] where their running sums pass shares [rows] (at least 0, below 1) of all.

    It is never one of weight 0. Weights of 0 at the end, from rows with more candidates, change nothing.
    """
    reached = weights.cumsum(axis=1)
    total = reached[:, -1:]
    passing = (reached <= shares[:, None] * total).sum(axis=1)
    result: IntArray = np.minimum(passing, (reached < total).sum(axis=1))  # rounding may set the target at the end
    return result


def drawn_from_all(weights: FloatArray, share: float) -> int:
    """The same for one row of a whole vocabulary [V], whose sum is approached block by block."""
    reached = block_sums(weights).cumsum(dtype=np.float64)
    block = passing(reached, share * float(reached[-1]))
    rest = share * float(reached[-1]) - (float(reached[block - 1]) if block else 0.0)
    inside = weights[block * BLOCK : (block + 1) * BLOCK].cumsum(dtype=np.float64)
    return block * BLOCK + passing(inside, rest)


def passing(reached: DoubleArray, target: float) -> int:
    """Where running sums pass a target, at the latest where they reach their end."""
    return int(min(reached.searchsorted(target, side="right"), reached.searchsorted(reached[-1])))
