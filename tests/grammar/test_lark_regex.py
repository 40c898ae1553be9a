"""Lark grammars as regular expressions: what llguidance takes for a text of the grammar, they match, no more."""

from __future__ import annotations

import json
import re
import time

import pytest

from genai.errors import ConfigError
from genai.grammar.lark_regex import MAX_CHARACTERS, lark_regex
from tests.grammar.test_grammar import allows, at_bytes

PATCH = r"""
start: begin hunk+ end
begin: "*** Begin Patch" LF
end: "*** End Patch" LF?
hunk: add | delete
add: "*** Add File: " name LF line+
delete: "*** Delete File: " name LF
name: /(.+)/
line: "+" /(.*)/ LF -> line
%import common.LF
"""
SUM = r"""
?start: term (SP ADD SP term)* -> add
    | term
term: INT | "(" start ")"   // brackets
SP: " "
ADD: "+"
%import common.INT
"""
LIST = r"""
start: items | items ";" | reversed "!"
items: NAME | items "," NAME
reversed: "0".."9" | "0".."9" "-" reversed
NAME: "a"i ("b" | "c"){1,2}
"""
SPACED = r"""
start: "set" NAME ("=" NUMBER)? [END]
NAME: LETTER~1..3
END: /;+/
%import common (LETTER, NUMBER)
%import common.WS -> SPACE
%ignore SPACE
"""
TEXTS = {
    PATCH: (
        "*** Begin Patch\n*** Add File: a.py\n+x = 1\n+\n*** End Patch",
        "*** Begin Patch\n*** Delete File: a\n*** Add File: b c\n+é\n*** End Patch\n",
        "*** Begin Patch\n*** End Patch",
        "*** Begin Patch\n*** Add File: \n+x\n*** End Patch",
        "*** Begin Patch\n*** Add File: a\nx\n*** End Patch",
    ),
    SUM: ("1", "1 + 22", "(1) + (2 + 3)", "((4))", "1+2", "(1", "1 + ", ""),
    LIST: ("ab", "Abc,acb", "ab,ab,ab,ab,ab,ab;", "1!", "1-2-3-4-5-6!", "a", "ab,", "1-!", "abbb", "aB"),
    SPACED: ("set a", "set  abc = 1.5;;", "seta=2", " set a ", "set abcd", "set a = ;", "se t a"),
}


@pytest.mark.parametrize("grammar", TEXTS, ids=["patch", "sum", "list", "spaced"])
def test_it_matches_what_the_grammar_does(grammar: str) -> None:
    pattern, judged = re.compile(lark_regex(grammar)), set()
    for text in TEXTS[grammar]:
        is_one = allows(at_bytes("lark", grammar), text)
        assert bool(pattern.fullmatch(text)) == is_one, text
        judged.add(is_one)
    assert judged == {True, False}


@pytest.mark.parametrize("grammar", TEXTS, ids=["patch", "sum", "list", "spaced"])
def test_a_string_in_json_follows_it(grammar: str) -> None:
    """As a pattern it holds an argument of a call, where line ends and quotes are escaped."""
    schema = json.dumps({"type": "string", "pattern": lark_regex(grammar)})
    for text in TEXTS[grammar]:
        written = json.dumps(text, ensure_ascii=False)
        assert allows(at_bytes("json_schema", schema), written) == allows(at_bytes("lark", grammar), text), text


def test_brackets_are_followed_a_few_levels_down() -> None:
    pattern = re.compile(lark_regex(SUM))
    deep = [f"{'(' * depth}1{')' * depth}" for depth in range(9)]
    matched = [bool(pattern.fullmatch(text)) for text in deep]
    assert matched[:4] == [True] * 4
    assert not matched[-1]
    assert all(allows(at_bytes("lark", SUM), text) for text in deep)


@pytest.mark.parametrize(
    ("grammar", "message"),
    [
        ("", "no rule `start`"),
        ("rule: start", "no rule `start`"),
        ("start: a", "'a' is not defined"),
        ("start: start", "no text follows it"),
        ('start: "a" start', "no text follows it"),
        ("start: /a/i", "the flags of '/a/i' are not followed"),
        ('start: %json {"type": "string"}', "line 1: '%json"),
        ('\n\nstart: "a" @b', "line 3: '@b' is not followed"),
        ("%import common.ODD\nstart: ODD", "common.ODD is not known"),
        ('start: ("a"', "'(' is not closed"),
        ('start: "a" )', "')' stands outside of a rule"),
        ('start: * "a"', "'*' stands where nothing is to be repeated"),
        ('start: "a"~3..2', "repeats from more to less"),
        ('start: "ab".."c"', "a range goes from one character"),
        (
            "start: A~300\nA: B~300\nB: /[^x]{9}/ | /yyyyyyyyyyyy/",
            None,
        ),
        (f"start: {' '.join(['a'] * 200)}\na: {' '.join(['B'] * 200)}\nB: /bcdefg/", "more than 20000 characters"),
        ("x" * (MAX_CHARACTERS + 1), "at most 32768 are taken"),
    ],
)
def test_what_is_no_such_grammar(grammar: str, message: str | None) -> None:
    if message is None:
        assert lark_regex(grammar)  # counted, not written out: what reads the pattern bounds it
        return
    with pytest.raises(ConfigError, match=re.escape(message)):
        lark_regex(grammar)


def test_what_is_deep_and_wide_costs_little() -> None:
    """A rule that calls itself in twenty places is followed as deep as there is room for."""
    places = " | ".join(f'"{letter}" start "!"' for letter in "abcdefghijklmnopqrst")
    assert re.fullmatch(lark_regex(f'start: "." | {places}'), "a.!")


def test_a_grammar_of_brackets_alone_is_bounded_in_depth() -> None:
    with pytest.raises(ConfigError, match="lark"):
        lark_regex("start: " + "(" * 20_000)
    chain = "".join(f"a{number}: a{number + 1}\n" for number in range(900))
    with pytest.raises(ConfigError, match="rules stand more than 50 deep"):
        lark_regex(f"start: a0\n{chain}a900: /x/")


def test_nothing_written_many_times_over_is_bounded() -> None:
    wide = "".join(f"a{number}: {f'a{number + 1} ' * 50}\n" for number in range(9))
    with pytest.raises(ConfigError, match="more than 20000 characters"):
        lark_regex(f'start: a0\n{wide}a9: ""')


def test_nothing_ignored_many_times_over_is_bounded() -> None:
    """What is ignored is written once, however many terminals it may stand behind."""
    many = " ".join
    grammar = (
        f'start: {many(["b"] * 300)} "x"\nb: "x"\n%ignore A\nA: {many(["B"] * 20)}\nB: {many(["E"] * 300)}\nE: ""\n'
    )
    begun = time.thread_time()
    assert lark_regex(grammar) == f"^(?:{'x' * 301})$"
    assert time.thread_time() - begun < 2.0
