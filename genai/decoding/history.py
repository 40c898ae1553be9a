"""What sampling options remember of a text: how often it has which tokens, and where each n-gram stands.

All of it grows by a token in constant time, and shrinks again from the end.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from genai.decoding.processors import FloatArray, IntArray
from genai.options.generation_config import DryConfig, SamplingConfig

_LONGEST_MATCH = 50
"""DRY follows a repetition back over so many tokens; the original's limit, which also keeps its powers in range."""
_LARGE = 1e18
"""Settings beyond ± this are taken as this: no logit makes up for it, and float32 holds even their products."""
_ROOM = 64
"""Places for new tokens when a table is full, and as many as it has."""
_PENALTY, _COST = 1, 2
"""Rows of the columns; the first is the bias."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changes:
    """How logits of single tokens change.

    tokens: [n], distinct; columns: [3, n], their bias, penalty and cost (`processors.changed`).
    """

    tokens: IntArray
    columns: FloatArray

    @property
    def ruled_out(self) -> IntArray:
        """The tokens that must not come, whatever their logits."""
        bias, _, cost = self.columns
        tokens: IntArray = self.tokens[(bias == -np.inf) | (cost == np.inf)]
        return tokens


class TokenTable:
    """The tokens whose logits a text's options change, each with a place in columns that grow.

    Biases stand there from the start, -inf for banned tokens; the repetition penalty of tokens that the text has, and
    what their presence and frequency among generated tokens cost, are kept up to date.
    """

    def __init__(self, config: SamplingConfig, prompt: Iterable[int], banned: Iterable[int] = ()) -> None:
        self._repetition = max(_within_float32(config.repetition_penalty), 1 / _LARGE)
        self._presence = _within_float32(config.presence_penalty)
        self._frequency = _within_float32(config.frequency_penalty)
        self._is_counting = self._repetition != 1 or self._presence != 0 or self._frequency != 0
        self._given = frozenset(prompt if self._repetition != 1 else ())
        biases = {**config.logit_bias, **dict.fromkeys(banned, -math.inf)}
        tokens = list(self._given.union(biases))
        self._places = {token: place for place, token in enumerate(tokens)}
        self._counts = [0] * len(tokens)
        bias = [_within_float32(biases.get(token, 0)) for token in tokens]
        penalty = [self._repetition if token in self._given else 1 for token in tokens]
        self._tokens = np.array(tokens, np.int64)
        self._columns = np.array([bias, penalty, self._counts], np.float32)

    @property
    def is_idle(self) -> bool:
        """Whether it has nothing, and never will by `add`."""
        return not (self._is_counting or self._places)

    def add(self, token: int) -> None:
        """Count a generated token."""
        if self._is_counting:
            self._count(token, 1)

    def remove(self, token: int) -> None:
        """Take back a token that was counted."""
        if self._is_counting:
            self._count(token, -1)

    def changes(self, costs: Mapping[int, float]) -> Changes | None:
        """What changes, with further costs of tokens for this once; None if nothing does. Views, valid until `add`."""
        places = [self._place(token) for token in costs]
        size = len(self._places)
        if not size:
            return None
        columns = self._columns[:, :size]
        if places:
            columns = columns.copy()
            columns[_COST, places] += np.fromiter(costs.values(), np.float32)
        return Changes(tokens=self._tokens[:size], columns=columns)

    def copy(self) -> TokenTable:
        """The same, independent from now on."""
        result = copy.copy(self)
        result._places, result._counts = self._places.copy(), self._counts.copy()
        result._tokens, result._columns = self._tokens.copy(), self._columns.copy()
        return result

    def _count(self, token: int, change: int) -> None:
        place = self._place(token)
        self._counts[place] += change
        count = self._counts[place]
        self._columns[_PENALTY, place] = self._repetition if count or token in self._given else 1
        self._columns[_COST, place] = self._presence + self._frequency * count if count else 0

    def _place(self, token: int) -> int:
        """A token's place. A new one changes nothing as yet."""
        place = self._places.setdefault(token, len(self._places))
        if place == len(self._counts):
            self._counts.append(0)
            if place == self._tokens.size:
                self._tokens = np.concatenate((self._tokens, np.zeros(_ROOM + place, np.int64)))
                new = np.tile(np.array([[0], [1], [0]], np.float32), _ROOM + place)
                self._columns = np.concatenate((self._columns, new), axis=1)
            self._tokens[place] = token
        return place


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
        token = tokens[place]
        if token not in breakers and lengths.get(token, 0) < _LONGEST_MATCH:
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
        return min(config.multiplier * config.base ** (length - config.allowed_length), _LARGE)
    except OverflowError:
        return _LARGE


def _within_float32(value: float) -> float:
    """A setting as it is used: float32 would make a larger one infinite. -inf stays."""
    return value if value == -math.inf else max(-_LARGE, min(value, _LARGE))
