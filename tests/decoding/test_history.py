"""What samplers remember, against going through the whole text."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genai.decoding.history import Changes, Ngrams, TokenTable, dry_penalties, repeating
from genai.options.generation_config import DryConfig, SamplingConfig

TEXTS = st.lists(st.integers(0, 3), max_size=40)
CHANGES = st.lists(st.one_of(st.integers(0, 3), st.none()), max_size=60)
"""Tokens to append, None to take the last one back."""


OPTIONS: list[dict[str, float]] = [
    {},
    {"repetition_penalty": 1.5},
    {"presence_penalty": 0.5},
    {"frequency_penalty": -0.25, "repetition_penalty": 0.5},
]


def as_dict(changes: Changes | None) -> dict[int, list[float]]:
    """bias, penalty and cost of tokens that change at all."""
    if changes is None:
        return {}
    columns = (changes.tokens, *changes.columns)
    assert len(set(changes.tokens.tolist())) == changes.tokens.size
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return {token: values for token, *values in rows if values != [0, 1, 0]}


@settings(deadline=None)
@given(TEXTS, CHANGES, st.sampled_from(OPTIONS))
def test_a_table_has_what_the_text_makes_of_its_tokens(
    prompt: list[int], changes: list[int | None], options: dict[str, float]
) -> None:
    config = SamplingConfig(logit_bias={2: 4.0, 9: 1.0}, **options)  # type: ignore[arg-type]
    table, generated = TokenTable(config, prompt, banned=[8, 9]), list[int]()
    for change in changes:
        if change is not None:
            table.add(change)
            generated.append(change)
        elif generated:
            table.remove(generated.pop())
        expected = {}
        for token in range(10):
            bias = -math.inf if token in {8, 9} else config.logit_bias.get(token, 0)
            penalty = config.repetition_penalty if token in {*prompt, *generated} else 1
            count = generated.count(token)
            cost = config.presence_penalty * (count > 0) + config.frequency_penalty * count
            if (bias, penalty, cost) != (0, 1, 0):
                expected[token] = [bias, penalty, cost]
        assert as_dict(table.changes({})) == expected


def test_further_costs_are_for_once() -> None:
    table = TokenTable(SamplingConfig(presence_penalty=1.0), [])
    table.add(5)
    assert as_dict(table.changes({5: 0.5, 7: math.inf})) == {5: [0, 1, 1.5], 7: [0, 1, math.inf]}
    assert as_dict(table.changes({})) == {5: [0, 1, 1]}


def test_a_table_of_nothing_changes_nothing() -> None:
    table = TokenTable(SamplingConfig(), [1, 2])
    table.add(3)
    assert table.changes({}) is None


def test_many_tokens_are_counted() -> None:
    table = TokenTable(SamplingConfig(frequency_penalty=1.0), [])
    for token in [*range(1000), *range(0, 1000, 2)]:
        table.add(token)
    assert as_dict(table.changes({})) == {token: [0, 1, 2 - token % 2] for token in range(1000)}


def test_copies_of_tables_are_independent() -> None:
    table = TokenTable(SamplingConfig(frequency_penalty=1.0), [])
    table.add(1)
    other = table.copy()
    table.add(1)
    other.add(2)
    assert as_dict(table.changes({})) == {1: [0, 1, 2]}
    assert as_dict(other.changes({})) == {1: [0, 1, 1], 2: [0, 1, 1]}


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
    assert dry_penalties(config, tokens, Ngrams(2, tokens), frozenset()) == {5: 1e18}


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
