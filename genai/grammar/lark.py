"""Lark grammars as llguidance reads them: what would not work here is refused, JSON schemas inside are rewritten.

A special token is named by its id, `<[17]>`: the only way for one to be part of a constrained text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from genai.errors import ConfigError
from genai.grammar.pattern import PatternError, check_size
from genai.grammar.values import Schema

MAX_LARK_CHARACTERS = 32 * 1024
"""How long a grammar may be without the JSON schemas in it, which have limits of their own."""
MAX_CHARACTERS = 1024 * 1024
MAX_INTERSECTIONS = 8

_ATTRIBUTES = {
    "capture": "captures are not returned",
    "stop": "it takes back what was generated; write [suffix=…] or [lazy]",
    "stop_capture": "captures are not returned",
    "temperature": "it is an option of the whole text",
    "max_tokens": "write the limit into the regular expression, as {0,80}",
}
_LEXEME = re.compile(
    r"(?P<comment>(?:#|//)[^\n]*)"
    r'|(?P<string>"(?:\\.|[^"\\\n])*")'
    r"|(?P<regex>/(?:\\.|[^/\\])+/)"
    r"|(?P<token><[^<>\s]+>)"
    r"|(?P<json>%json\s*(?=\{))"
)
_HEAD = re.compile(r"^[ \t]*[!?_]*[a-z][a-z0-9_-]*(?:\.[0-9]+)?[ \t]*\[(?P<attributes>[^\]\n]*)\][ \t]*:", re.MULTILINE)


def rewritten_lark(text: str, rewrite: Callable[[str], Schema], num_own: int = 0) -> tuple[str, frozenset[int]]:
    """A Lark grammar with the JSON schemas in it as `rewrite` gives them, and the tokens that it names by their ids.

    num_own: how many of its characters no request wrote; without such, schemas do not count either.
    Raises: ConfigError for what cannot be followed, with its line.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"lark has {len(text)} characters; a constraint has at most {MAX_CHARACTERS}")
    num_others = len(text) - num_own
    parts: list[str] = []
    bare: list[str] = []  # the same lines without strings, comments and schemas
    tokens: set[int] = set()
    position = 0
    while found := _LEXEME.search(text, position):
        parts.append(text[position : found.end()])
        bare.append(text[position : found.start()])
        position = found.end()
        if found["token"]:
            tokens.add(_token_id(text, found))
        if found["regex"]:
            _check_regex(text, found)
        if found["json"]:
            position = _end_of_json(text, position)
            num_others -= 0 if num_own else position - found.end()
            parts.append(json.dumps(rewrite(text[found.end() : position]), ensure_ascii=False))
        bare.append(re.sub(r"[^\n]", " ", text[found.start() : position]))
    parts.append(text[position:])
    bare.append(text[position:])
    if num_others > MAX_LARK_CHARACTERS:
        raise ConfigError(f"lark has {num_others} characters; a constraint has at most {MAX_LARK_CHARACTERS}")
    _check_attributes(text, "".join(bare))
    if "".join(bare).count("&") > MAX_INTERSECTIONS:
        raise ConfigError(f"lark: '&' is not supported more than {MAX_INTERSECTIONS} times")
    if re.search(r'"allow_invalid_utf8"\s*:', text):
        raise ConfigError("lark: 'allow_invalid_utf8' is not supported: a text is Unicode")
    return "".join(parts), frozenset(tokens)


def _token_id(text: str, found: re.Match[str]) -> int:
    named = re.fullmatch(r"<\[([0-9]{1,9})\]>", found[0])
    if named is None:
        raise _refusal(
            text, found.start(), f"{found[0]:.60} is not supported: write a special token by its id, as <[17]>"
        )
    return int(named[1])


def _check_regex(text: str, found: re.Match[str]) -> None:
    try:
        check_size(found["regex"])
    except PatternError as error:
        raise _refusal(text, found.start(), f"{found[0]:.60}: {error}") from None


def _check_attributes(text: str, bare: str) -> None:
    """Refuse a rule's attributes that nothing here would follow."""
    for head in _HEAD.finditer(bare):
        for name in re.findall(r"[a-z_]+", head["attributes"]):
            if name in _ATTRIBUTES:
                raise _refusal(text, head.start(), f"{name!r} is not supported: {_ATTRIBUTES[name]}")


def _end_of_json(text: str, start: int) -> int:
    try:
        return json.JSONDecoder().raw_decode(text, start)[1]
    except (ValueError, RecursionError) as error:
        raise _refusal(text, start, f"what follows %json is not JSON: {error!s:.80}") from None


def _refusal(text: str, position: int, reason: str) -> ConfigError:
    return ConfigError(f"lark, line {text.count(chr(10), 0, position) + 1}: {reason}")
