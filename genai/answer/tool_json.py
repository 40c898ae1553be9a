"""JSON read as it arrives: strict (RFC 8259), balanced, string-aware, in linear time and without recursion."""

from __future__ import annotations

import re

from genai.answer.answer_text import PiecewiseText, Reading

MAX_DEPTH = 64
"""Deepest nesting that counts as JSON: other readers recurse."""
MAX_NUMBER = 400
"""Longest number that counts as JSON, in characters: Python refuses to read integers of thousands of digits."""

_STRING_RUN = re.compile(r'[^"\\\x00-\x1f]*')
_SCALAR = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null")
_SCALAR_CHARACTERS = frozenset("+-.0123456789abcdefghijklmnopqrstuvwxyzE")
_HEX = frozenset("0123456789abcdefABCDEF")
_CLOSER = {"{": "}", "[": "]"}


def read_json(text: PiecewiseText) -> Reading[bool]:
    """Take one JSON value, and nothing behind it. False: it is none; what was taken could have begun one."""
    closers: list[str] = []
    while True:
        opener = yield from text.skip_space()
        if opener in _CLOSER:
            if len(closers) == MAX_DEPTH:
                return False
            text.take(1)
            closers.append(_CLOSER[opener])
            if (yield from text.skip_space()) != closers[-1]:
                if opener == "{" and not (yield from _read_key(text)):
                    return False
                continue
        elif not (yield from (_read_string(text) if opener == '"' else _read_scalar(text))):
            return False
        while closers:  # the value has ended, and perhaps what it is in
            character = yield from text.skip_space()
            if character not in (closers[-1], ","):
                return False
            text.take(1)
            if character == ",":
                break
            closers.pop()
        else:
            return True
        if closers[-1] == "}" and not (yield from _read_key(text)):
            return False


def _read_key(text: PiecewiseText) -> Reading[bool]:
    """Take a key and its colon."""
    if (yield from text.skip_space()) != '"' or not (yield from _read_string(text)):
        return False
    return (yield from read_colon(text))


def read_colon(text: PiecewiseText) -> Reading[bool]:
    """Take a colon; False if none comes."""
    is_there = (yield from text.skip_space()) == ":"
    if is_there:
        text.take(1)
    return is_there


def _read_string(text: PiecewiseText) -> Reading[bool]:
    text.take(1)
    while True:
        yield from text.take_run(_STRING_RUN)
        character = yield from text.peek()
        if character not in ('"', "\\"):
            return False  # a control character, or the end of the text
        text.take(1)
        if character == '"':
            return True
        if not (yield from _read_escape(text)):
            return False


def _read_escape(text: PiecewiseText) -> Reading[bool]:
    """Take what follows a backslash."""
    escape = yield from text.peek()
    if not escape or escape not in '"\\/bfnrtu':
        return False
    text.take(1)
    for _ in range(4 if escape == "u" else 0):
        if (yield from text.peek()) not in _HEX:
            return False
        text.take(1)
    return True


def _read_scalar(text: PiecewiseText) -> Reading[bool]:
    """Take a number, true, false or null."""
    scalar = ""
    while len(scalar) <= MAX_NUMBER and (yield from text.peek()) in _SCALAR_CHARACTERS:
        scalar += text.take(1)
    return len(scalar) <= MAX_NUMBER and is_scalar(scalar)


def is_scalar(word: str) -> bool:
    """Whether a word is a number, true, false or null."""
    return _SCALAR.fullmatch(word) is not None
