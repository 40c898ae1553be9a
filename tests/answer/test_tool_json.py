"""JSON is what Python's reader says it is, however the text is cut, and however hostile it is."""

from __future__ import annotations

import json
from typing import NoReturn

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genai.answer.answer_text import PiecewiseText
from genai.answer.tool_json import MAX_DEPTH, MAX_NUMBER, read_json

SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)
JSON_SPACE = " \t\n\r"  # what JSON calls white space; str.strip takes more
FRAGMENTS = st.sampled_from(
    [
        *'{}[],:"\\ \n\t+-.',
        "0",
        "12",
        "e5",
        "E",
        "true",
        "false",
        "null",
        "NaN",
        '"a"',
        '"a":',
        "\\u12",
        "é",
        "\x1f",
        "\x7f",
    ]
)


def read(pieces: list[str]) -> tuple[bool, str]:
    """Whether a value was read, and what was taken."""
    text = PiecewiseText()
    reading = read_json(text)
    try:
        for piece in pieces:
            next(reading)
            text.feed(piece)
        next(reading)
        text.end()
        while True:
            next(reading)
    except StopIteration as end:
        return end.value, text.since_mark()


def refuse(name: str) -> NoReturn:
    raise ValueError(name)


def is_json(text: str) -> bool:
    try:
        json.loads(text, parse_constant=refuse)
    except ValueError:
        return False
    return True


@given(st.lists(FRAGMENTS, max_size=12).map("".join) | VALUES.map(json.dumps), st.booleans())
def test_agrees_with_python(text: str, is_cut: bool) -> None:
    is_value, taken = read(list(text) if is_cut else [text])
    assert text.startswith(taken)
    assert (is_value and taken.strip(JSON_SPACE) == text.strip(JSON_SPACE)) == is_json(text)
    if is_value:
        assert is_json(taken)


@given(VALUES, st.sampled_from([None, 1, 3]), st.booleans())
def test_takes_a_value_and_nothing_behind_it(value: object, indent: int | None, ascii_: bool) -> None:
    if isinstance(value, int | float):
        value = [value]  # a number goes on for as long as there are digits
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_)
    assert read([text + "} more"]) == (True, text)
    assert read(list(text + "} more")) == (True, text)


@pytest.mark.parametrize("opener", ["[", '{"a":', "[ [", '[{"b": 1, "a":'])
def test_depth_is_limited_and_costs_no_recursion(opener: str) -> None:
    depth = opener.count("[") + opener.count("{")
    assert read([opener * 100_000])[0] is False
    text = opener * (MAX_DEPTH // depth) + "0"
    for character in reversed(opener * (MAX_DEPTH // depth)):
        text += {"[": "]", "{": "}"}.get(character, "")
    assert read([text]) == (True, text)


def test_numbers_that_python_does_not_read_are_none() -> None:
    assert read(["[" + "9" * MAX_NUMBER + "]"])[0]
    assert not read(["[" + "9" * (MAX_NUMBER + 1) + "]"])[0]
