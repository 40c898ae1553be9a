"""Whether a graph gives a token the same logits, bit for bit, whatever runs beside it; and what that takes here.

What a kernel adds up, and in which order, may depend on how many rows a product has and on how long the cache's view
is. Which do is the processor's business: ONNX Runtime's 4-bit products of AVX2 have an order of their own for one row,
those of AVX-512 with blocks of 64 for the last of an odd number of rows. So the graph itself is asked when it is
loaded: the same tokens are run in one piece, one by one, beside others, and in views of two lengths. Where they differ,
positions that nobody reads are added to runs (`Padding`) until they do not. Adapters are not asked: what one adds to a
token that is run alone has other bits than among others of its row.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from genai.errors import CapacityError, NotFiniteError
from genai.runtime.logits import FloatArray

if TYPE_CHECKING:
    from genai.runtime.runner import Runner

_log = logging.getLogger(__name__)

_NUM_TOKENS = 17
"""Of the longest run: sixteen and one, since kernels take rows by two, four, six, eight, twelve or sixteen."""
_LONG = 300
"""Tokens that rows which run together have room for: far from the 17 of those that run alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Padding:
    """How many rows products are given at least, and of which number a multiple."""

    least: int = 1
    multiple: int = 1

    def positions(self, num_rows: int, num_positions: int) -> int:
        """How many positions each row of a run has for so many that are asked for."""
        while num_rows * num_positions < self.least or num_rows * num_positions % self.multiple:
            num_positions += 1
        return num_positions

    @property
    def most(self) -> int:
        """Most positions that are added to a row."""
        return max(self.least, self.multiple) - 1


PADDINGS = (Padding(), Padding(least=2), Padding(multiple=2))
"""What may be needed, the least costly first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SameBits:
    """What was found.

    padding: what it takes; None if nothing known helps, and texts may depend on what runs beside them.
    """

    padding: Padding | None

    @property
    def summary(self) -> str:
        """It in a few words."""
        match self.padding:
            case None:
                return "not kept"
            case Padding(least=1, multiple=1):
                return "kept"
            case Padding(least=least, multiple=1):
                return f"kept by at least {least} positions a run"
            case Padding(multiple=multiple):
                return f"kept by a multiple of {multiple} positions a run"


def find_padding(runner: Runner, max_seq_len: int) -> SameBits:
    """Have an empty runner pad its runs as little as keeps the bits, or not at all if nothing does; tells which.

    Where the cache is too small to tell, nothing is promised. Raises: GraphRunError.
    """
    whole: dict[int, list[FloatArray]] = {}
    found = next((padding for padding in PADDINGS if _keeps(runner, padding, max_seq_len, whole)), None)
    runner.pad(found or Padding())
    result = SameBits(padding=found)
    _log.info("the same bits whatever runs beside: %s", result.summary)
    return result


def _keeps(runner: Runner, padding: Padding, max_seq_len: int, whole: dict[int, list[FloatArray]]) -> bool:
    """Whether tokens have the same logits in all kinds of runs.

    whole: those of one run, by its positions: the longest run is not repeated for a padding that leaves it as it was.
    """
    runner.pad(padding)
    num_tokens = min(_NUM_TOKENS, max_seq_len - padding.most)
    tokens = [(1 + 7919 * index) % runner.vocab_size for index in range(num_tokens)]
    num_positions = padding.positions(1, num_tokens)
    try:
        if num_positions not in whole:
            whole[num_positions] = [logits for _, logits in _alone(runner, tokens, [num_tokens])]
        expected = whole[num_positions]
        others = itertools.chain(_alone(runner, tokens, [4, 1, 2, 3]), _together(runner, tokens, max_seq_len))
        return num_tokens > 4 and all(expected[place].tobytes() == logits.tobytes() for place, logits in others)
    except (CapacityError, NotFiniteError):
        return False


def _alone(runner: Runner, tokens: Sequence[int], pieces: Sequence[int]) -> Iterator[tuple[int, FloatArray]]:
    """Each place and its logits, from a row that is given tokens in pieces of these lengths."""
    row, start = runner.cache.allocate(sum(pieces)), 0
    try:
        for length in pieces:
            part = tokens[start : start + length]
            if part:
                yield from enumerate(runner.run_row(row, part, len(part)).copy(), start)
            start += length
    finally:
        runner.cache.free(row)


def _together(runner: Runner, tokens: Sequence[int], max_seq_len: int) -> Iterator[tuple[int, FloatArray]]:
    """The same of up to three rows side by side, with much room: a piece each, a token each, and a token of two."""
    cache = runner.cache
    room = min(_LONG, max_seq_len - runner.padding.most, cache.num_slots // 4)
    rows: list[int] = []
    try:
        with contextlib.suppress(CapacityError):
            rows += (cache.allocate(room) for _ in range(3))
        group = cache.groups[0]
        lengths = [3, 2, 1][: len(group.rows)]
        first = runner.prefill_rows(group.rows, [tokens[:length] for length in lengths]).copy()
        yield from zip((length - 1 for length in lengths), first, strict=True)
        more = runner.advance(group, [tokens[length : length + 1] for length in lengths])
        yield from zip(lengths, more[:, 0].copy(), strict=True)
        lengths = [length + 1 for length in lengths[:2]]
        last = runner.prefill_rows(group.rows[:2], [tokens[length : length + 1] for length in lengths])
        yield from zip(lengths, last.copy(), strict=True)
    finally:
        for row in rows:
            cache.free(row)
