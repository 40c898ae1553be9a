"""Every way to cut a vocabulary's pieces in two of its pieces, found in time that grows with its characters.

A file's vocabulary may come from anyone: pieces of thousands of characters, each tried at every place, take minutes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from genai.errors import TokenizerError

MAX_CUT_CHARACTERS = 2**24
"""Characters of all cuts together, beyond 16 for each of the vocabulary; Gemma's have 3 for each."""
_BASE = 0x9E3779B97F4A7C15  # odd, so that its powers have inverses modulo 2**64

Hashes = npt.NDArray[np.uint64]


def cuts(pieces: Sequence[str]) -> list[tuple[str, str]]:
    """`(left, right)` for each piece in turn and each of its cuts from left to right, both halves among the pieces.

    Raises: TokenizerError for pieces that have absurdly many.
    """
    lengths = np.array([len(piece) for piece in pieces], np.int64)
    owners, sizes = _possible(pieces, lengths)
    num_characters, limit = int(lengths[owners].sum()), MAX_CUT_CHARACTERS + 16 * int(lengths.sum())
    if num_characters > limit:
        raise TokenizerError(
            f"the vocabulary's pieces can be cut in two of them in {len(owners):,} ways ({num_characters:,} "
            f"characters, limit {limit:,}): no real vocabulary is like that"
        )
    known = set(pieces)
    halves = ((pieces[owner][:size], pieces[owner][size:]) for owner, size in zip(owners, sizes, strict=True))
    return [(left, right) for left, right in halves if left in known and right in known]


def _possible(pieces: Sequence[str], lengths: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], ...]:
    """Which piece, and the length of its left half, for all cuts whose halves hash as some piece does.

    A text hashes to the sum of `character[i] * BASE**i`, modulo 2**64: a right half's hash follows from the sums to
    both of its ends.
    """
    owners = np.repeat(np.arange(len(pieces)), lengths)
    places = np.arange(len(owners)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    characters = np.frombuffer("".join(pieces).encode("utf-32-le"), "<u4").astype(np.uint64)
    longest = int(lengths.max(initial=0))
    powers, inverses = _powers(_BASE, longest), _powers(pow(_BASE, -1, 2**64), longest + 1)
    sums = np.cumsum(characters * powers[places], dtype=np.uint64)
    before = np.concatenate([np.zeros(1, np.uint64), sums])[np.cumsum(lengths) - lengths]
    lefts = sums - before[owners]
    wholes = np.concatenate([sums, np.zeros(1, np.uint64)])[np.cumsum(lengths) - 1] - before
    rights = (wholes[owners] - lefts) * inverses[places + 1]
    found = np.isin(lefts, wholes) & (places + 1 < lengths[owners])
    found[found] &= np.isin(rights[found], wholes)
    return owners[found], places[found] + 1


def _powers(base: int, count: int) -> Hashes:
    """`base**0 … base**(count - 1)`, modulo 2**64."""
    return np.cumprod(np.array([1, *[base] * max(0, count - 1)], np.uint64), dtype=np.uint64)
