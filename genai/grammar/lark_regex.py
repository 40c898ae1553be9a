"""Lark grammars as regular expressions, for texts that stand inside other texts: an argument of a call, a JSON string.

What matches the expression follows the grammar. The reverse holds too, as long as rules call themselves only at their
begin or end (a list); deeper nesting (brackets) is followed a few levels down, which is as far as an automaton goes.

Source: lark-parser.readthedocs.io/en/stable/grammar.html.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from genai.errors import ConfigError

MAX_CHARACTERS = 32 * 1024
MAX_REGEX_CHARACTERS = 20_000
MAX_NODES = 20_000
"""So many parts of rules are written at most; a part that is in several rules is written for each."""
_DEEPEST = 3
_MAX_NESTING = 50

COMMON: Mapping[str, str] = {
    "CNAME": "[A-Za-z_][A-Za-z_0-9]*",
    "CR": r"\r",
    "DECIMAL": r"(?:[0-9]+\.[0-9]*|\.[0-9]+)",
    "DIGIT": "[0-9]",
    "ESCAPED_STRING": r'"(?:[^"\\\n]|\\[^\n])*"',
    "FLOAT": r"(?:[0-9]+[eE][+\-]?[0-9]+|(?:[0-9]+\.[0-9]*|\.[0-9]+)(?:[eE][+\-]?[0-9]+)?)",
    "HEXDIGIT": "[0-9A-Fa-f]",
    "INT": "[0-9]+",
    "LCASE_LETTER": "[a-z]",
    "LETTER": "[A-Za-z]",
    "LF": r"\n",
    "NEWLINE": r"(?:\r?\n)+",
    "NUMBER": r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+\-]?[0-9]+)?",
    "SIGNED_INT": r"[+\-]?[0-9]+",
    "SIGNED_NUMBER": r"[+\-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+\-]?[0-9]+)?",
    "UCASE_LETTER": "[A-Z]",
    "WORD": "[A-Za-z]+",
    "WS": r"[ \t\f\r\n]+",
    "WS_INLINE": r"[ \t]+",
}
"""What `%import common.NAME` brings."""


@dataclass(frozen=True, slots=True)
class _Text:
    """An expression that matches a terminal."""

    regex: str


@dataclass(frozen=True, slots=True)
class _Name:
    """A rule or terminal by its name."""

    name: str


@dataclass(frozen=True, slots=True)
class _Sequence:
    """One after the other."""

    items: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Choice:
    """One of them."""

    items: tuple[_Node, ...]


@dataclass(frozen=True, slots=True)
class _Repeat:
    """So many times; most: None for any number."""

    item: _Node
    least: int
    most: int | None


_Node: TypeAlias = "_Text | _Name | _Sequence | _Choice | _Repeat"


def lark_regex(text: str) -> str:
    """A regular expression (ECMA-262's) for the whole of a text that follows a grammar.

    Raises: ConfigError for what is no such grammar, and for what has no expression of a decent size.
    """
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(f"lark has {len(text)} characters; at most {MAX_CHARACTERS} are taken")
    grammar = _Parser(text).grammar()
    if "start" not in grammar.rules:
        raise ConfigError("lark: there is no rule `start`")
    for depth in range(_DEEPEST, -1, -1):
        try:
            ignored = "|".join(filter(None, map(_Writer(grammar, 0).terminal, grammar.ignores)))
            found = _Writer(grammar, depth, ignored).rule("start")
        except _TooLongError:
            continue
        if found is None:
            raise ConfigError("lark: no text follows it, or none without deep nesting")
        return f"^(?:{found})$"
    most = f"{MAX_REGEX_CHARACTERS} characters, or {MAX_NODES} parts"
    raise ConfigError(f"lark: as a regular expression it has more than {most}")


@dataclass(frozen=True, slots=True)
class _Grammar:
    rules: dict[str, _Node] = field(default_factory=dict)
    ignores: list[_Node] = field(default_factory=list)


_TOKEN = re.compile(
    r"(?P<skip>\s+|//[^\n]*|\#[^\n]*)"
    r'|(?P<string>"(?:\\.|[^"\\\n])*"i?)'
    r"|(?P<regex>/(?!/)(?:\\.|[^/\\\n])+/[a-z]*)"
    r"|(?P<head>[!?]*_*[A-Za-z][A-Za-z0-9_-]*(?:\.-?[0-9]+)?\s*:)"
    r"|(?P<name>_*[A-Za-z][A-Za-z0-9_-]*)"
    r"|(?P<import>%import\s+common\.(?P<imported>[A-Z_]+)(?:\s*->\s*(?P<as>[A-Z_][A-Z0-9_]*))?"
    r"|%import\s+common\s*\((?P<several>[A-Z_,\s]+)\))"
    r"|(?P<ignore>%ignore\b)"
    r"|(?P<alias>->\s*[a-z_][a-z0-9_]*)"
    r"|(?P<count>~\s*[0-9]+(?:\s*\.\.\s*[0-9]+)?|\{\s*[0-9]*\s*(?:,\s*[0-9]*\s*)?\})"
    r"|(?P<sign>\.\.|[|()\[\]?*+])"
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "f": "\f"}


class _Parser:
    """Reads a grammar; `_at` is the next token."""

    def __init__(self, text: str) -> None:
        self._tokens = list(_tokens(text))
        self._at = 0
        self._nesting = 0

    def grammar(self) -> _Grammar:
        grammar = _Grammar()
        while (token := self._next()) is not None:
            kind, text, found = token
            if kind == "head":
                name = text.rstrip(": \t\n").lstrip("!?").partition(".")[0]
                grammar.rules[name] = self._choice()
            elif kind == "import":
                several = (found["several"] or found["imported"]).replace(",", " ").split()
                for name in several:
                    if name not in COMMON:
                        raise ConfigError(f"lark: common.{name} is not known")
                    grammar.rules[found["as"] or name] = _Text(COMMON[name])
            elif kind == "ignore":
                grammar.ignores.append(self._choice())
            else:
                raise ConfigError(f"lark: {text[:40]!r} stands outside of a rule")
        return grammar

    def _choice(self) -> _Node:
        items = [self._sequence()]
        while self._take("|"):
            items.append(self._sequence())
        return items[0] if len(items) == 1 else _Choice(tuple(items))

    def _sequence(self) -> _Node:
        items: list[_Node] = []
        while (item := self._item()) is not None:
            items.append(item)
        if (token := self._peek()) is not None and token[0] == "alias":
            self._at += 1
        return _Sequence(tuple(items))

    def _item(self) -> _Node | None:
        atom = self._atom()
        if atom is None:
            return None
        while (token := self._peek()) is not None:
            kind, text, _ = token
            if text in ("?", "*", "+"):
                atom = _Repeat(atom, int(text == "+"), 1 if text == "?" else None)
            elif kind == "count":
                atom = _Repeat(atom, *_counts(text))
            else:
                break
            self._at += 1
        return atom

    def _atom(self) -> _Node | None:
        token = self._peek()
        if token is None or token[0] not in ("string", "regex", "name", "sign") or token[1] in "|)]":
            return None
        self._at += 1
        kind, text, _ = token
        if kind == "name":
            return _Name(text)
        if kind == "regex":
            return _Text(_plain_regex(text))
        if kind == "string":
            return self._string(text)
        if text not in ("(", "["):
            raise ConfigError(f"lark: {text!r} stands where nothing is to be repeated")
        self._nesting += 1
        if self._nesting > _MAX_NESTING:
            raise ConfigError(f"lark: brackets stand more than {_MAX_NESTING} deep")
        inner = self._choice()
        self._nesting -= 1
        if not self._take(")" if text == "(" else "]"):
            raise ConfigError(f"lark: {text!r} is not closed")
        return inner if text == "(" else _Repeat(inner, 0, 1)

    def _string(self, text: str) -> _Node:
        if not self._take(".."):
            return _Text(_literal(text))
        token = self._next()
        ends = _unquoted(text), _unquoted(token[1]) if token and token[0] == "string" else ""
        if not all(len(end) == 1 for end in ends):
            raise ConfigError("lark: a range goes from one character to another")
        return _Text(f"[{_escaped(ends[0])}-{_escaped(ends[1])}]")

    def _peek(self) -> tuple[str, str, Mapping[str, str]] | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def _next(self) -> tuple[str, str, Mapping[str, str]] | None:
        token = self._peek()
        self._at += 1
        return token

    def _take(self, sign: str) -> bool:
        token = self._peek()
        is_there = token is not None and token[0] == "sign" and token[1] == sign
        self._at += is_there
        return is_there


def _tokens(text: str) -> Iterator[tuple[str, str, Mapping[str, str]]]:
    position = 0
    while position < len(text):
        found = _TOKEN.match(text, position)
        if found is None:
            line = text.count("\n", 0, position) + 1
            raise ConfigError(f"lark, line {line}: {text[position : position + 20]!r} is not followed here")
        position = found.end()
        kind = next(name for name in _KINDS if found[name] is not None)
        if kind != "skip":
            yield kind, found[0], found.groupdict()


_KINDS = ("skip", "string", "regex", "head", "name", "import", "ignore", "alias", "count", "sign")


def _counts(text: str) -> tuple[int, int | None]:
    low, *high = re.split(r"\.\.|,", text.strip("~{} \t"))
    least = int(low or 0)
    most = least if not high else int(high[0]) if high[0].strip() else None
    if most is not None and most < least:
        raise ConfigError(f"lark: {text!r} repeats from more to less")
    return least, most


def _unquoted(text: str) -> str:
    inner = text.removesuffix("i")[1:-1]
    return re.sub(r"\\(.)", lambda found: _ESCAPES.get(found[1], found[1]), inner)


def _escaped(character: str) -> str:
    """A character as an expression, in and out of classes."""
    if character.isalnum() or character == " ":
        return character
    return f"\\u{ord(character):04X}" if ord(character) < 0x10000 else f"\\u{{{ord(character):X}}}"


def _literal(text: str) -> str:
    """A string as an expression."""
    if text.endswith("i"):
        return "".join(
            f"[{each.lower()}{each.upper()}]" if len({each.lower(), each.upper()}) == 2 else _escaped(each)
            for each in _unquoted(text)
        )
    return "".join(map(_escaped, _unquoted(text)))


def _plain_regex(text: str) -> str:
    regex, _, flags = text[1:].rpartition("/")
    if set(flags) - {"u"}:
        raise ConfigError(f"lark: the flags of {text[:40]!r} are not followed here")
    return f"(?:{regex})"


class _TooLongError(Exception):
    """An expression becomes too long."""


class _Writer:
    """Writes rules as expressions.

    depth: how often a rule is followed inside of itself; ignored: what may stand between terminals.
    """

    def __init__(self, grammar: _Grammar, depth: int, ignored: str = "") -> None:
        self._grammar = grammar
        self._depth = depth
        self._ignored = ignored
        self._inside: list[str] = []
        self._num_nodes = 0
        self._num_characters = 0

    def rule(self, name: str) -> str | None:
        """A rule's expression; None if it matches nothing at this depth. Raises: _TooLongError, ConfigError."""
        if name not in self._grammar.rules:
            raise ConfigError(f"lark: {name!r} is not defined")
        if self._inside.count(name) > self._depth:
            return None
        if len(self._inside) > _MAX_NESTING:
            raise ConfigError(f"lark: rules stand more than {_MAX_NESTING} deep in each other")
        self._inside.append(name)
        node = self._grammar.rules[name]
        found = self.terminal(node) if name.lstrip("_").isupper() else self._list(name, node)
        self._inside.pop()
        return found

    def terminal(self, node: _Node) -> str | None:
        """A terminal's expression, with nothing between its parts."""
        return self._node(node, is_terminal=True)

    def _list(self, name: str, node: _Node) -> str | None:
        """A rule that goes on where it ends, or begins with itself, is a repetition."""
        branches = [each if isinstance(each, _Sequence) else _Sequence((each,)) for each in _branches(node)]
        own = _Name(name)
        behind = [each.items[1:] for each in branches if each.items[:1] == (own,) and len(each.items) > 1]
        before = [each.items[:-1] for each in branches if each.items[-1:] == (own,) and each.items[:1] != (own,)]
        once = [each for each in branches if own not in (*each.items[:1], *each.items[-1:])]
        parts: list[_Node] = [_Choice(tuple(once))]
        if before:
            parts.insert(0, _Repeat(_Choice(tuple(map(_Sequence, before))), 0, None))
        if behind:
            parts.append(_Repeat(_Choice(tuple(map(_Sequence, behind))), 0, None))
        return self._node(_Sequence(tuple(parts)), is_terminal=False)

    def _node(self, node: _Node, *, is_terminal: bool) -> str | None:
        self._num_nodes += 1
        found = self._expression(node, is_terminal=is_terminal)
        length = len(found or "")
        self._num_characters += length
        is_long = length > MAX_REGEX_CHARACTERS or self._num_characters > 10 * MAX_REGEX_CHARACTERS
        if is_long or self._num_nodes > MAX_NODES:
            raise _TooLongError
        return found

    def _expression(self, node: _Node, *, is_terminal: bool) -> str | None:
        match node:
            case _Text(regex):
                return self._ended(regex, is_terminal=is_terminal)
            case _Name(name):
                found = self.rule(name)
                is_rule = is_terminal or found is None or not name.lstrip("_").isupper()
                return found if is_rule else self._ended(f"(?:{found})", is_terminal=False)
            case _Sequence(items):
                parts = [self._node(item, is_terminal=is_terminal) for item in items]
                return (
                    None
                    if None in parts
                    else "".join(f"(?:{part})" if "|" in str(part) else str(part) for part in parts)
                )
            case _Choice(items):
                branches = [self._node(item, is_terminal=is_terminal) for item in items]
                return _joined([branch for branch in branches if branch is not None])
            case _Repeat(item, least, most):
                inner = self._node(item, is_terminal=is_terminal)
                if inner is None or inner == "":
                    return "" if inner == "" or least == 0 else None
                return f"(?:{inner}){_quantifier(least, most)}"

    def _ended(self, regex: str, *, is_terminal: bool) -> str:
        """A terminal, and what is ignored behind it."""
        return f"{regex}(?:{self._ignored})*" if self._ignored and not is_terminal else regex


def _branches(node: _Node) -> Sequence[_Node]:
    return node.items if isinstance(node, _Choice) else (node,)


def _joined(branches: Sequence[str]) -> str | None:
    return "|".join(dict.fromkeys(branches)) if branches else None


def _quantifier(least: int, most: int | None) -> str:
    simple = {(0, None): "*", (1, None): "+", (0, 1): "?"}.get((least, most))
    return simple or (f"{{{least}}}" if least == most else f"{{{least},{'' if most is None else most}}}")
