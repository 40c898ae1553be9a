"""Patterns of JSON schemas: what they match as constraints, Python's `re` and ECMA-262 match too."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genai.grammar.formats import FORMATS, NATIVE_FORMATS
from genai.grammar.grammar import Grammars
from genai.grammar.pattern import MAX_EXPANDED_SIZE, PatternError, check_size, translated
from genai.options.generation_config import ConstraintConfig
from tests.tiny_package import END_ID, VOCAB_SIZE, byte_tokenizer

GRAMMARS = Grammars(byte_tokenizer(), VOCAB_SIZE, (END_ID,))


def matches(text: str, **schema: object) -> bool:
    """Whether a string is allowed by a schema."""
    grammar = json.dumps({"type": "string", **schema})
    constraint = GRAMMARS.constraint(ConstraintConfig(kind="json_schema", grammar=grammar))
    for byte in json.dumps(text, ensure_ascii=False).encode():
        if not constraint.mask()[byte]:
            return False
        constraint.accept(byte)
    return constraint.is_complete


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("^a|b$", "^a|b$"),
        ("a.b", r"a[^\n\r\x{2028}\x{2029}]b"),
        ("a+?b*?c??d{2,3}?", "a+b*c?d{2,3}"),
        ("(a)(?:b)(?<n>c)(?P<m>d)", "(?:a)(?:b)(?:c)(?:d)"),
        (r"\d\w", "[0-9][0-9A-Za-z_]"),
        (r"\D", r"[^\p{Nd}]"),
        (r"[^\d]", r"[^[\p{Nd}]]"),
        (r"[^\D]", "[^[^0-9]]"),
        (r"[\w-.]", r"[[0-9A-Za-z_]\x{2D}\x{2E}]"),
        ("[a-c-e]", r"[a-c\x{2D}e]"),
        ("[-a]", r"[\x{2D}a]"),
        ("[a&&b~~c[d]", r"[a\x{26}\x{26}b\x{7E}\x{7E}c\x{5B}d]"),
        (r"[\b\]\\]", r"[\x{8}\x{5D}\x{5C}]"),
        (r"\/\-\_\$", r"\x{2F}\x{2D}\x{5F}\x{24}"),
        (r"\x41\u0042\u{43}\cD\0\t", r"ABC\x{4}\x{0}\x{9}"),
        (r"\uD83D\uDE00", r"\x{1F600}"),
        (r"\p{Lu}\P{L}[\p{N}]", r"\p{Lu}\P{L}[\p{N}]"),
        ("a{ b} ]", r"a\x{7B}\x{20}b\x{7D}\x{20}\x{5D}"),
    ],
)
def test_patterns_in_the_other_syntax(pattern: str, expected: str) -> None:
    assert translated(pattern) == expected


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(?=a)", "no look-around"),
        ("(?<!a)b", "no look-around"),
        ("(?i)a", "no inline flags"),
        (r"\bfoo", "no word boundaries"),
        (r"(a)\1", "no back references"),
        (r"\k<n>", "no back references"),
        (r"\Z", r"\\Z: unknown escape"),
        (r"\uD83D", r"U.D83D is no character"),
        (r"\u{110000}", "is no character"),
        ("a{,3}", r"write .0,n"),
        ("a**", "nothing to repeat"),
        ("a{2}{3}", "nothing to repeat"),
        ("[]", "empty class"),
        ("[^]a", "empty class"),
        ("[a", "an open class"),
        ("[z-a]", "the wrong way round"),
        ("a\\", "a backslash at the end"),
        ("(a{200}){200}", "counted repetitions"),
    ],
)
def test_what_no_automaton_can_hold_or_readers_disagree_on_is_refused(pattern: str, message: str) -> None:
    with pytest.raises(PatternError, match=message):
        translated(pattern)


def test_repetitions_are_counted_where_they_multiply() -> None:
    half = MAX_EXPANDED_SIZE // 2
    for fine in (f"a{{{half}}}b{{{half - 9}}}", "(ab?[c-z]{3,}\\d)+", "a{1,9}" * 99, "[{9999}]{9}", r"\{99999\}"):
        check_size(fine)
    for large in (f"a{{{half}}}b{{{half}}}c", "((a{100}){100}){100}", "(abc{9}){9999}", "a{99999999999999999999}"):
        with pytest.raises(PatternError, match=f"more than {MAX_EXPANDED_SIZE}"):
            check_size(large)


ATOMS = st.sampled_from(
    [*"ab-é0.", r"\d", r"\w", r"\s", r"\D", r"\W", r"\S", r"\.", "[ab]", "[^a]", r"[^\w]", r"[\s\d-]", r"[^\D]"]
)
PATTERNS = st.recursive(
    ATOMS,
    lambda inner: (
        st.tuples(inner, inner).map("".join)
        | st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})")
        | st.tuples(inner, st.sampled_from(["*", "+?", "?", "{2}", "{1,2}"])).map(lambda pair: f"({pair[0]}){pair[1]}")
    ),
    max_leaves=6,
)
TEXTS = st.text(st.sampled_from("ab01-_. é²٣\t\u2028\u0085\ufeff名"), max_size=6)


@settings(max_examples=150, deadline=None)
@given(
    pattern=PATTERNS,
    start=st.sampled_from(["", "^"]),
    end=st.sampled_from(["", "$"]),
    texts=st.lists(TEXTS, max_size=8),
)
def test_a_constraint_matches_no_more_than_python_and_no_less_of_ascii(
    pattern: str, start: str, end: str, texts: list[str]
) -> None:
    whole = f"{start}{pattern}{end}"
    for text in texts:
        is_allowed = matches(text, pattern=whole)
        is_match = re.search(whole, text) is not None
        assert is_match or not is_allowed, (whole, text)
        if text.isascii():
            assert is_allowed == is_match, (whole, text)


@pytest.mark.parametrize(
    ("name", "yes", "no"),
    [
        ("date", ["2024-02-29", "0001-12-31"], ["2023-02-29", "2100-02-29", "2024-13-01", "24-01-01", "2024-06-31"]),
        ("time", ["23:59:59Z", "00:00:00.123+05:30"], ["24:00:00Z", "12:00:60Z", "12:00Z", "12:00:00"]),
        ("date-time", ["2024-02-29T00:00:00Z"], ["2024-02-30T00:00:00Z", "2024-02-29 00:00:00Z"]),
        ("duration", ["P1Y2M3DT4H5M6S", "P2W", "PT1S"], ["P", "1Y", "P1S"]),
        ("email", ["a.b+c@d-e.fg"], ["a@", "@b", "a b@c"]),
        ("hostname", ["a", "a-b.example.com"], ["-a", "a-", "a..b", "a_b", "x" * 64]),
        ("ipv4", ["0.0.0.0", "255.249.199.9"], ["256.0.0.0", "1.2.3", "01.2.3.4"]),
        ("ipv6", ["::", "1::8", "1:2:3:4:5:6:7:8"], ["1", ":::", "1:2:3:4:5:6:7:8:9", "12345::"]),
        ("uuid", ["123e4567-e89b-12d3-a456-426614174000"], ["123e4567e89b12d3a456426614174000"]),
        ("uri", ["https://u@x.y:80/a/b?c=d#e", "mailto:a@b", "a:"], ["//x/y", "a b:c", "http://x/%zz", "/x"]),
        ("uri-reference", ["../a?b", "#x", "", "http://x"], ["a b", "%"]),
        ("iri", ["http://x/y"], ["x y"]),
        ("iri-reference", ["x/y"], ["x y"]),
        ("json-pointer", ["", "/a~1b/0", "//"], ["a", "/~2"]),
        ("byte", ["", "QUJD", "QUI=", "QQ=="], ["A", "QUJ", "QQ=", "Q==="]),
    ],
)
def test_formats(name: str, yes: list[str], no: list[str]) -> None:
    assert [text for text in yes if not matches(text, format=name)] == []
    assert [text for text in no if matches(text, format=name)] == []


def test_every_format_is_tested() -> None:
    (marker,) = test_formats.pytestmark
    assert {case[0] for case in marker.args[1]} == FORMATS.keys() | NATIVE_FORMATS
