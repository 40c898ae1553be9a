"""Regular expressions of JSON schemas, and formats, in the syntax of Rust's regex crate, which llguidance reads.

JSON Schema's patterns are ECMA-262's, many validators take them for their own language's, and the three disagree:
`[a[b]`, `[a&&b]`, `.`, `\\d` beyond ASCII, `$` before a last newline. What is written here matches only texts that
ECMA-262 and Python's `re` both match, so a text that follows it is valid to either; what has no such form is refused.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

MAX_EXPANDED_SIZE = 30_000
"""How many characters a regular expression may have with its counted repetitions written out."""


class PatternError(ValueError):
    """A regular expression that cannot be a constraint, with the reason."""


_SPACES = r"\t\n\x0B\x0C\r \x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"
_NARROW = {"d": "[0-9]", "w": "[0-9A-Za-z_]", "s": f"[{_SPACES}]"}
_WIDE = {"d": r"[\p{Nd}]", "w": r"[\p{L}\p{N}_]", "s": rf"[{_SPACES}\x1C-\x1F\x{{85}}\x{{FEFF}}]"}
_CONTROLS = {"t": 9, "n": 10, "v": 11, "f": 12, "r": 13}
_QUANTIFIER = re.compile(r"[*+?]|\{[0-9]+(?:,[0-9]*)?\}")
_GROUP = re.compile(r"\((?:\?(?::|P?<[A-Za-z_][A-Za-z_0-9]*>))?")
_CODE_POINT = re.compile(r"x([0-9A-Fa-f]{2})|u([0-9A-Fa-f]{4})|u\{([0-9A-Fa-f]{1,6})\}|c([A-Za-z])|(0)(?![0-9])")
_PROPERTY = re.compile(r"[pP]\{[A-Za-z_=]+\}")
_BRACED = re.compile(r"\\[uxpP]\{[^}]*\}")
_COUNT = re.compile(r"\{([0-9]*),?([0-9]*)\}")
_LOW_SURROGATE = re.compile(r"\\u([Dd][C-Fc-f][0-9A-Fa-f]{2})")


def translated(pattern: str) -> str:
    """A pattern of a JSON schema (ECMA-262, found anywhere unless anchored) in Rust's syntax.

    Raises: PatternError for look-around, back references, word boundaries and what else no automaton can hold.
    """
    check_size(pattern)
    return _Translator(pattern).whole()


@dataclass(frozen=True, slots=True, kw_only=True)
class Anchored:
    """A regular expression without the anchors at its ends; is_start, is_end: whether they were there."""

    inner: str
    is_start: bool
    is_end: bool


def anchored(pattern: str) -> Anchored | None:
    """A translated pattern taken apart; None where anchors stand elsewhere, or hold for one choice of several."""
    start, end = pattern.startswith("^"), pattern.endswith("$")
    inner = pattern[start : len(pattern) - end]
    position = depth = 0
    while position < len(inner):
        character = inner[position]
        if character in "^$" or (character == "|" and not depth and (start or end)):
            return None
        depth += {"(": 1, ")": -1}.get(character, 0)
        position = _end_of_atom(inner, position)
    return Anchored(inner=inner, is_start=start, is_end=end)


def check_size(pattern: str) -> None:
    """Refuse a regular expression whose counted repetitions multiply. Raises: PatternError."""
    totals, last = [0], 0
    position = 0
    while position < len(pattern):
        character = pattern[position]
        count = _COUNT.match(pattern, position)
        if count:
            times = [int(digits[:9]) for digits in count.groups() if digits]
            totals[-1] += last * (max([1, *times]) - 1)
            last *= max([1, *times])
        elif character == "(":
            totals.append(0)
        elif character == ")" and len(totals) > 1:
            last = totals.pop()
            totals[-1] += last
        elif character not in "*+?|^$":
            last = 1
            totals[-1] += 1
        if max(totals[-1], last) > MAX_EXPANDED_SIZE:
            raise PatternError(f"its counted repetitions come to more than {MAX_EXPANDED_SIZE} characters")
        position = count.end() if count else _end_of_atom(pattern, position)


def _end_of_atom(pattern: str, position: int) -> int:
    """Where the character, escape or class that begins at `position` ends."""
    if pattern[position] == "\\":
        found = _BRACED.match(pattern, position)
        return found.end() if found else position + 2
    if pattern[position] != "[":
        return position + 1
    end = position + 1
    while end < len(pattern) and pattern[end] != "]":
        end += 2 if pattern[end] == "\\" else 1
    return end + 1


class _Translator:
    """Walks over a pattern once; `_at` is the next character."""

    def __init__(self, pattern: str) -> None:
        self._pattern = pattern
        self._at = 0

    def whole(self) -> str:
        parts: list[str] = []
        while self._at < len(self._pattern):
            parts.append(self._term())
        return "".join(parts)

    def _term(self) -> str:
        if found := self._match(_QUANTIFIER):
            return self._quantifier(found)
        if self._pattern.startswith("(", self._at):
            return self._group()
        character = self._take()
        if character == "\\":
            return self._escape(_NARROW, _WIDE)
        if character == "[":
            return self._class()
        if character == ".":
            return r"[^\n\r\x{2028}\x{2029}]"
        if character in "^$|)":
            return character
        if character == "{" and self._pattern.startswith(",", self._at):
            raise PatternError("{,n} is a quantifier to some and text to others; write {0,n}")
        return _literal(ord(character))

    def _quantifier(self, text: str) -> str:
        if self._pattern.startswith("?", self._at):  # lazy: which texts match stays the same
            self._at += 1
        if self._match(_QUANTIFIER):
            raise PatternError(f"nothing to repeat after {text!r}")
        return text

    def _group(self) -> str:
        opening = self._match(_GROUP) or ""
        if opening == "(" and self._pattern.startswith("?", self._at):
            raise PatternError(f"{self._pattern[self._at - 1 : self._at + 3]!r}: no look-around and no inline flags")
        return "(?:"

    def _escape(self, positive: dict[str, str], negative: dict[str, str]) -> str:
        """What follows a backslash; positive, negative: what \\d and \\D… stand for here."""
        if found := self._match(_PROPERTY):
            return f"\\{found}"
        code = self._code_point()
        if code is not None:
            return _literal(code)
        character = self._take("a backslash at the end")
        if character in "dws":
            return positive[character]
        if character in "DWS":
            return f"[^{negative[character.lower()][1:]}"
        if character in _CONTROLS:
            return _literal(_CONTROLS[character])
        if character in "bB":
            raise PatternError(f"\\{character}: no word boundaries")
        if character.isdigit() or character == "k":
            raise PatternError(f"\\{character}: no back references")
        if character.isascii() and character.isalpha():
            raise PatternError(f"\\{character}: unknown escape")
        return _literal(ord(character))

    def _code_point(self) -> int | None:
        """The character that \\x41, \\u0041, \\u{41}, \\cA or \\0 names; a pair of surrogates is one character."""
        found = _CODE_POINT.match(self._pattern, self._at)
        if found is None:
            return None
        self._at = found.end()
        if found[4]:
            return ord(found[4]) % 32
        code = int(found[1] or found[2] or found[3] or found[5], 16)
        low = _LOW_SURROGATE.match(self._pattern, self._at)
        if 0xD800 <= code < 0xDC00 and low:
            self._at = low.end()
            return 0x10000 + (code - 0xD800) * 0x400 + int(low[1], 16) - 0xDC00
        if 0xD800 <= code < 0xE000 or code > 0x10FFFF:
            raise PatternError(f"U+{code:04X} is no character")
        return code

    def _class(self) -> str:
        is_negated = self._pattern.startswith("^", self._at)
        self._at += is_negated
        # A negated class must leave out whatever any reader takes \w for: there the wide meaning is the safe one.
        positive, negative = (_WIDE, _NARROW) if is_negated else (_NARROW, _WIDE)
        items: list[str | int] = []
        while not self._pattern.startswith("]", self._at):
            items.append(self._class_item(positive, negative))
        self._at += 1
        if not items:
            raise PatternError("an empty class matches nothing to some, and to others is not yet closed")
        return f"[{'^' if is_negated else ''}{''.join(_ranges(items))}]"

    def _class_item(self, positive: dict[str, str], negative: dict[str, str]) -> str | int:
        """A character of a class as its code point, a dash that is not escaped as "-", a set as Rust writes it."""
        character = self._take("an open class")
        if character == "-":
            return character
        if character != "\\":
            return ord(character)
        if self._pattern.startswith("b", self._at):
            self._at += 1
            return 8
        code = self._code_point()
        if code is not None:
            return code
        if self._pattern[self._at : self._at + 1] in [*"dwsDWSpP"]:
            return self._escape(positive, negative)
        following = self._pattern[self._at : self._at + 1]
        self._escape(positive, negative)
        return _CONTROLS.get(following, ord(following))

    def _match(self, expression: re.Pattern[str]) -> str | None:
        found = expression.match(self._pattern, self._at)
        if found is None:
            return None
        self._at = found.end()
        return found[0]

    def _take(self, at_end: str = "") -> str:
        if self._at >= len(self._pattern):
            raise PatternError(at_end)
        self._at += 1
        return self._pattern[self._at - 1]


def _ranges(items: list[str | int]) -> list[str]:
    """The items of a class: a dash between two characters makes a range, elsewhere it is itself."""
    result: list[str] = []
    while items:
        match items:
            case [int(first), "-", int(last), *rest]:
                if last < first:
                    raise PatternError(f"the range {chr(first)}-{chr(last)} is the wrong way round")
                result.append(f"{_literal(first)}-{_literal(last)}")
            case [first, *rest]:
                result.append(_literal(first) if isinstance(first, int) else _literal(45) if first == "-" else first)
        items = rest
    return result


def _literal(code: int) -> str:
    """A character that stands for itself, inside a class and outside."""
    character = chr(code)
    return character if character.isascii() and character.isalnum() else f"\\x{{{code:X}}}"
