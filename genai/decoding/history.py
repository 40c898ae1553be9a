"""What sampling options remember of a text: which tokens it has, how often, and where each n-gram stands.

All of it grows by a token in constant time, and shrinks again from the end.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from genai.decoding.processors import FloatArray, IntArray
from genai.generation_config import DryConfig

_LONGEST_MATCH = 50
"""DRY follows a repetition back over so many tokens; the original's limit, which also keeps its powers in range."""
_MOST = 1e30
"""The largest DRY penalty: beyond what any logit makes up for, but not -inf, which would rule a token out."""


class TokenCounts:
    """The distinct tokens of a text in the order in which they came, and how often each was generated."""

    def __init__(self, prompt: Iterable[int] = ()) -> None:
        self._places = {token: place for place, token in enumerate(dict.fromkeys(prompt))}
        self._num_given = len(self._places)
        self._tokens = np.fromiter((*self._places, *[0] * 64), np.int64)
        self._counts = np.zeros(self._tokens.size, np.float32)

    @property
    def tokens(self) -> IntArray:
        """[n]: the distinct tokens; a view."""
        return self._tokens[: len(self._places)]

    @property
    def counts(self) -> FloatArray:
        """[n]: how often each was generated, 0 for one that only the prompt has; a view."""
        return self._counts[: len(self._places)]

    def add(self, token: int) -> None:
        """Count a generated token."""
        place = self._places.setdefault(token, len(self._places))
        if place == self._tokens.size:
            self._tokens = np.concatenate((self._tokens, np.zeros_like(self._tokens)))
            self._counts = np.concatenate((self._counts, np.zeros_like(self._counts)))
        self._tokens[place] = token
        self._counts[place] += 1

    def remove(self, token: int) -> None:
        """Take back the token that was counted last."""
        place = self._places[token]
        self._counts[place] -= 1
        if place >= self._num_given and not self._counts[place]:
            del self._places[token]  # the newest one: those that came after it have been taken back

    def copy(self) -> TokenCounts:
        """The same, independent from now on."""
        result = TokenCounts()
        result._places, result._num_given = self._places.copy(), self._num_given
        result._tokens, result._counts = self._tokens.copy(), self._counts.copy()
        return result


class Ngrams:
    """Where each n-gram of a text ends: of each the latest place, and from every place the one before with the same.

    A place is the number of tokens up to the n-gram's end. tokens: the text, which its owner changes: `add` is told
    after a token has come, `remove` before the last one goes. size: n; the n-gram of 0 tokens ends at every place.
    """

    def __init__(self, size: int, tokens: Sequence[int]) -> None:
        self._size = size
        self._latest: dict[tuple[int, ...], int] = {}
        self._earlier: list[int] = []
        for place in range(len(tokens) + 1):
            self._link(tokens, place)

    def add(self, tokens: Sequence[int]) -> None:
        """Take note of the text's last token."""
        self._link(tokens, len(tokens))

    def remove(self, tokens: Sequence[int]) -> None:
        """Forget the text's last token, which it still has."""
        earlier, ngram = self._earlier.pop(), tuple(tokens[len(tokens) - self._size :])
        if earlier >= 0:
            self._latest[ngram] = earlier
        elif len(tokens) >= self._size:
            del self._latest[ngram]

    def places(self) -> Iterator[int]:
        """Where the n-gram that the text ends with has ended before, the latest first."""
        place = self._earlier[-1]
        while place >= 0:
            yield place
            place = self._earlier[place]

    def copy(self) -> Ngrams:
        """The same, independent from now on."""
        result = Ngrams.__new__(Ngrams)
        result._size, result._latest, result._earlier = self._size, self._latest.copy(), self._earlier.copy()
        return result

    def _link(self, tokens: Sequence[int], place: int) -> None:
        if place < self._size:
            self._earlier.append(-1)
            return
        ngram = tuple(tokens[place - self._size : place])
        self._earlier.append(self._latest.get(ngram, -1))
        self._latest[ngram] = place


def repeating(tokens: Sequence[int], ngrams: Ngrams) -> set[int]:
    """The tokens that would complete an n-gram which the text has already. ngrams: of one token less than n."""
    return {tokens[place] for place in ngrams.places()}


def dry_penalties(
    config: DryConfig, tokens: Sequence[int], ngrams: Ngrams, breakers: frozenset[int]
) -> dict[int, float]:
    """What DRY takes from the logits of which tokens. ngrams: of `config.allowed_length` tokens.

    The longest repetition that a token would prolong counts. Source: github.com/oobabooga/text-generation-webui,
    modules/sampler_hijack.py, DRYLogitsProcessor.
    """
    shortest = config.allowed_length
    if not breakers.isdisjoint(tokens[len(tokens) - shortest :]):
        return {}
    start = 0 if config.window is None else max(0, len(tokens) - config.window)
    lengths: dict[int, int] = {}
    for place in ngrams.places():
        if place - shortest < start:
            break
        if (token := tokens[place]) not in breakers:
            length = _match_length(tokens, place, shortest, start, breakers)
            lengths[token] = max(length, lengths.get(token, 0))
    return {token: _dry_penalty(config, length) for token, length in lengths.items()}


def _match_length(tokens: Sequence[int], place: int, known: int, start: int, breakers: frozenset[int]) -> int:
    """How many tokens before `place`, but not before `start`, are those at the text's end; `known`: so many are."""
    length, limit, end = known, min(_LONGEST_MATCH, place - start), len(tokens)
    while length < limit and (token := tokens[place - length - 1]) == tokens[end - length - 1]:
        if token in breakers:
            break
        length += 1
    return length


def _dry_penalty(config: DryConfig, length: int) -> float:
    try:
        return min(config.multiplier * config.base ** (length - config.allowed_length), _MOST)
    except OverflowError:
        return _MOST
