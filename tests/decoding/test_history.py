"""What samplers remember, against going through the whole text."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genai.decoding.history import Ngrams, TokenCounts, dry_penalties, repeating
from genai.generation_config import DryConfig

TEXTS = st.lists(st.integers(0, 3), max_size=40)
CHANGES = st.lists(st.one_of(st.integers(0, 3), st.none()), max_size=60)
"""Tokens to append, None to take the last one back."""


@settings(deadline=None)
@given(TEXTS, CHANGES)
def test_counts_are_those_of_the_generated_tokens(prompt: list[int], changes: list[int | None]) -> None:
    counts, generated = TokenCounts(prompt), list[int]()
    for change in changes:
        if change is not None:
            counts.add(change)
            generated.append(change)
        elif generated:
            counts.remove(generated.pop())
        expected = dict.fromkeys([*prompt, *generated], 0) | Counter(generated)
        assert dict(zip(counts.tokens.tolist(), counts.counts.tolist(), strict=True)) == expected


def test_many_tokens_are_counted() -> None:
    counts = TokenCounts([5])
    for token in [*range(1000), *range(0, 1000, 2)]:
        counts.add(token)
    found = dict(zip(counts.tokens.tolist(), counts.counts.tolist(), strict=True))
    assert found == {token: 2 - token % 2 for token in range(1000)}


def test_copies_of_counts_are_independent() -> None:
    counts = TokenCounts([1])
    other = counts.copy()
    counts.add(1)
    other.add(2)
    assert (counts.tokens.tolist(), counts.counts.tolist()) == ([1], [1])
    assert (other.tokens.tolist(), other.counts.tolist()) == ([1, 2], [0, 1])


@settings(deadline=None)
@given(TEXTS, CHANGES, st.integers(0, 3))
def test_ngrams_stand_where_they_stand(prompt: list[int], changes: list[int | None], size: int) -> None:
    tokens = prompt.copy()
    ngrams = Ngrams(size, tokens)
    for change in [*changes, 0]:
        if change is not None:
            tokens.append(change)
            ngrams.add(tokens)
        elif len(tokens) > len(prompt):
            ngrams.remove(tokens)
            tokens.pop()
        end = len(tokens)
        expected = [
            place
            for place in range(end - 1, size - 1, -1)
            if end >= size and tokens[place - size : place] == tokens[end - size :]
        ]
        assert list(ngrams.copy().places()) == expected
        followers = {tokens[place] for place in expected}
        assert repeating(tokens, ngrams) == followers


def test_copies_of_ngrams_are_independent() -> None:
    tokens = [1, 2]
    ngrams = Ngrams(1, tokens)
    other = ngrams.copy()
    tokens.append(1)
    ngrams.add(tokens)
    assert list(ngrams.places()) == [1]
    assert list(other.places()) == []


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.integers(0, 3), min_size=1, max_size=150),
    st.sampled_from([1, 2, 3, 5]),
    st.sampled_from([None, 1, 2, 4, 20, 1000]),
    st.sampled_from([frozenset(), frozenset({3}), frozenset({0, 3})]),
)
def test_dry_is_as_defined(tokens: list[int], allowed: int, window: int | None, breakers: frozenset[int]) -> None:
    config = DryConfig(multiplier=0.8, base=1.5, allowed_length=allowed, window=window)
    found = dry_penalties(config, tokens, Ngrams(allowed, tokens), breakers)
    assert found == pytest.approx(original_dry(config, tokens, breakers))


@pytest.mark.parametrize("length", [10, 49, 50, 51, 60])
def test_dry_follows_long_repetitions_as_far_as_the_original(length: int) -> None:
    config = DryConfig(multiplier=1.0, base=1.1)
    tokens = [*range(100, 100 + length), 7, 8, *range(100, 100 + length)]
    found = dry_penalties(config, tokens, Ngrams(2, tokens), frozenset())
    assert found == pytest.approx({7: 1.1 ** (min(length, 50) - 2)})
    assert found == pytest.approx(original_dry(config, tokens, frozenset()))


@pytest.mark.parametrize(("multiplier", "base"), [(1e300, 2.0), (1.0, 1e300)])
def test_dry_penalties_stay_finite(multiplier: float, base: float) -> None:
    config = DryConfig(multiplier=multiplier, base=base)
    tokens = [1, 2, 3, 4, 5, 1, 2, 3, 4]
    assert dry_penalties(config, tokens, Ngrams(2, tokens), frozenset()) == {5: 1e30}


def original_dry(config: DryConfig, text: list[int], breakers: frozenset[int]) -> dict[int, float]:
    """DRYLogitsProcessor of text-generation-webui, going through the text again for each token."""
    tokens = text if config.window is None else text[-config.window :]
    lengths: dict[int, int] = {}
    if tokens[-1] in breakers:
        return {}
    for place in range(len(tokens) - 1):
        if tokens[place] != tokens[-1] or tokens[place + 1] in breakers:
            continue
        length = 1
        while length < 50 and place - length >= 0:
            previous = tokens[-(length + 1)]
            if tokens[place - length] != previous or previous in breakers:
                break
            length += 1
        lengths[tokens[place + 1]] = max(length, lengths.get(tokens[place + 1], 0))
    return {
        token: config.multiplier * config.base ** (length - config.allowed_length)
        for token, length in lengths.items()
        if length >= config.allowed_length
    }
