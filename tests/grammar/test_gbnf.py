"""llama.cpp's grammars as Lark ones."""

from __future__ import annotations

import pytest

from genai.errors import RequestError
from genai.grammar.gbnf import lark_of_gbnf


def test_alternatives_classes_and_repetition() -> None:
    lark = lark_of_gbnf('root ::= "a" item+ # comment\nitem ::= [0-9]+ | "-"\n')
    assert "start:" in lark
    assert "ITEM+" in lark
    assert "/[0-9]/+" in lark


@pytest.mark.parametrize(
    "grammar", ['root ::= "open', "root = x", "\x00", "root ::= (((", "[" * 5000, "root ::= a", "x" * 300_000]
)
def test_what_is_none_is_refused(grammar: str) -> None:
    with pytest.raises(RequestError, match="grammar"):
        lark_of_gbnf(grammar)
