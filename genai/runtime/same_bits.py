"""Whether a graph gives a token the same logits, bit for bit, whatever runs beside it; and what that takes here.

What a kernel adds up, and in which order, may depend on how many rows a product has and on how long the cache's view
is. Which do is the processor's business: ONNX Runtime's 4-bit products of AVX2 have an order of their own for one row,
those of AVX-512 with blocks of 64 for the last of an odd number of rows. So the graph itself is asked when it is
loaded: the same tokens are run in one piece, one by one, beside others, and in views of two lengths; where no more than
windows is kept of a row (`windows.py`), also far from the beginning, before and after keys move. Where they differ,
positions that nobody reads are added to runs (`Padding`) until they do not. Adapters are not asked: what those of bytes
add has the same bits in any run, since their sums are exact; what those of floats add has other bits for a token that
is run alone than for one among others of its row.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from genai.errors import CapacityError, NotFiniteError
from genai.runtime.kept_answers import KeptAnswer
from genai.runtime.logits import FloatArray
from genai.runtime.windows import WindowRoom

if TYPE_CHECKING:
    from genai.runtime.runner import Runner

_log = logging.getLogger(__name__)

_NUM_TOKENS = 17
"""Of the longest run: sixteen and one, since kernels take rows by two, four, six, eight, twelve or sixteen."""
_LONG = 300
"""Tokens that rows which run together have room for: far from the 17 of those that run alone."""
_PIECES = (4, 1, 2, 3)
_TILE = 128
"""Rows of a product that MLAS gives to one call of a kernel when it works on several threads: of 129 one is alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Padding:
    """How many rows products are given at least, and of which number a multiple; rows of a tile count by themselves.

    repeats: a lone token gets its second row in the graph (`build/repeated.py`), where products need it, and not
    as a position of the run.
    """

    least: int = 1
    multiple: int = 1
    repeats: bool = False

    def positions(self, num_rows: int, num_positions: int) -> int:
        """How many positions each row of a run has for so many that are asked for."""
        while not self._suits(num_rows * num_positions):
            num_positions += 1
        return num_positions

    def _suits(self, num_rows: int) -> bool:
        return not 0 < num_rows % _TILE < self.least and num_rows % self.multiple == 0

    @property
    def most(self) -> int:
        """Most positions that are added to a row."""
        return max(self.least, self.multiple) - 1


PADDINGS = (Padding(), Padding(least=2, repeats=True), Padding(least=2), Padding(multiple=2))
"""What may be needed, the least costly first."""
MOST_PADDING = max(padding.most for padding in PADDINGS)
"""Positions that any of them may add to a row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SameBits:
    """What was found.

    padding: what it takes; None if nothing known helps, and texts may depend on what runs beside them;
    is_asked_for: whether they are to be kept at all; where not, nothing is padded, and the kernels are not tried.
    """

    padding: Padding | None
    is_asked_for: bool = True

    @property
    def summary(self) -> str:
        """It in a few words."""
        if not self.is_asked_for:
            return "not asked for"
        match self.padding:
            case None:
                return "not kept"
            case Padding(least=1, multiple=1):
                return "kept"
            case Padding(repeats=True):
                return "kept by a second row for a lone token's products"
            case Padding(least=least, multiple=1):
                return f"kept by at least {least} positions a run"
            case Padding(multiple=multiple):
                return f"kept by a multiple of {multiple} positions a run"


def find_padding(runner: Runner, max_seq_len: int) -> SameBits:
    """Have an empty runner pad its runs as little as keeps the bits, or not at all if nothing does; tells which.

    Where the cache is too small to tell, nothing is promised. Raises: GraphRunError.
    """
    probe = _Probe(runner, max_seq_len)
    known = [padding for padding in PADDINGS if runner.can_repeat or not padding.repeats]
    found = next((padding for padding in known if probe.keeps(padding)), None)
    runner.pad(found or Padding())
    result = SameBits(padding=found)
    _log.info("the same bits whatever runs beside: %s", result.summary)
    return result


def keep_bits(runner: Runner, max_seq_len: int, kept: KeptAnswer) -> SameBits:
    """As `find_padding`, or as was found before, which is kept."""
    match kept.value:
        case {"padding": None}:
            return SameBits(padding=None)
        case {"padding": {**fields}}:
            known = next((padding for padding in PADDINGS if asdict(padding) == fields), None)
            if known is not None:
                runner.pad(known)
                return SameBits(padding=known)
    found = find_padding(runner, max_seq_len)
    kept.keep({"padding": None if found.padding is None else asdict(found.padding)})
    return found


def sizes_that_matter(num_slots: int, max_seq_len: int, window: WindowRoom | None) -> list[int]:
    """What a finding depends on of a cache and its longest sequence: no more than is tried."""
    far = _far(window)
    enough = 4 * _LONG + 2 * (far + _NUM_TOKENS) if far else 4 * _LONG
    return [min(num_slots, enough), min(max_seq_len, enough), far]


class _Probe:
    """Whether tokens have the same logits in all kinds of runs.

    The longest run is not repeated for a padding that leaves it as it was.
    """

    def __init__(self, runner: Runner, max_seq_len: int) -> None:
        self._runner, self._max_seq_len = runner, max_seq_len
        self._far = _far(runner.cache.window)
        self._whole: dict[int, list[FloatArray]] = {}  # those of one run, by its positions

    def keeps(self, padding: Padding) -> bool:
        """Whether they have with this padding."""
        runner, longest = self._runner, self._max_seq_len - padding.most
        runner.pad(padding)
        tokens = [(1 + 7919 * index) % runner.vocab_size for index in range(min(_NUM_TOKENS, longest))]
        try:
            together = _together(runner, tokens, self._max_seq_len)
            if len(tokens) <= _PIECES[0] or not self._agree(tokens, 0, together):
                return False
            end = self._far + len(tokens)
            is_there = bool(self._far) and end <= longest and runner.cache.would_hold([end])
            return not is_there or self._agree(tokens, self._far, ())
        except (CapacityError, NotFiniteError):
            return False

    def _agree(self, tokens: Sequence[int], held: int, others: Iterable[tuple[int, FloatArray]]) -> bool:
        """Whether logits behind so many tokens are those of a run of all, in pieces, and in other places."""
        count = self._runner.padding.positions(1, len(tokens))
        whole = None if held else self._whole.get(count)
        if whole is None:
            whole = [logits for _, logits in _alone(self._runner, tokens, [len(tokens)], held)]
        if not held:
            self._whole[count] = whole
        pairs = itertools.chain(_alone(self._runner, tokens, _PIECES, held), others)
        return all(whole[place].tobytes() == logits.tobytes() for place, logits in pairs)


def _far(window: WindowRoom | None) -> int:
    """Tokens of a row whose keys move after the first piece; 0 where none do."""
    return 0 if window is None else window.slots - window.reserved_slots - _PIECES[0]


def _alone(runner: Runner, tokens: Sequence[int], pieces: Sequence[int], held: int) -> Iterator[tuple[int, FloatArray]]:
    """Each place and its logits, from a row that is given tokens in pieces of these lengths.

    held: as many are taken for written before, which are zeros.
    """
    row, start = runner.cache.allocate(held + sum(pieces)), 0
    try:
        if held:
            runner.cache.clear_behind(row)
            runner.cache.assume(row, held)
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
