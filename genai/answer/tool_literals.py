"""Values as Python, JSON or Gemma write them, read as they arrive: what is given is their JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping

from genai.answer.answer_text import Markers, PiecewiseText, Reading
from genai.answer.tool_json import MAX_DEPTH, MAX_NUMBER, is_scalar

WORDS: Mapping[str, str] = {"True": "true", "False": "false", "None": "null"}
"""Python's words for values of JSON."""

_CLOSERS = {"{": "}", "[": "]"}
_QUOTED = {quote: re.compile(rf"[^{quote}\\]*") for quote in ('"', "'")}
_ESCAPES = {"n": "\\n", "t": "\\t", "r": "\\r", "b": "\\b", "f": "\\f", "'": "'", '"': '\\"', "\\": "\\\\", "/": "/"}
_HEX_DIGITS = {"x": 2, "u": 4}
_HEX = re.compile(r"[0-9a-fA-F]")
_WORD = re.compile(r"[A-Za-z0-9_+.-]*")
_BARE_NAME = re.compile(r"[^\s\"':,{}\[\]<>]*")


def read_literal(text: PiecewiseText, given: list[str], quote: str = "", depth: int = 0) -> Reading[bool]:
    """Take one value. False: it is none. quote: a marker around strings; names of an object need none."""
    first = yield from text.skip_space()
    if first in _CLOSERS:
        return depth < MAX_DEPTH and (yield from _read_items(text, given, quote, depth))
    if (yield from _is_string(text, quote)):
        return (yield from _read_any_string(text, given, quote))
    word = yield from _take_run(text, _WORD)
    if len(word) > MAX_NUMBER or not (word in WORDS or is_scalar(word)):
        return False
    given.append(WORDS.get(word, word))
    return True


def read_string(text: PiecewiseText, ends: Markers, given: list[str]) -> Reading[bool]:
    """Take a string up to what ends it, and that. False: nothing does."""
    given.append('"')
    while True:
        length, end = text.find(ends)
        given.append(_escaped(text.take(length)))
        if end is not None:
            text.take(len(end))
            given.append('"')
            return True
        if text.is_ended:
            return False
        yield


def _read_items(text: PiecewiseText, given: list[str], quote: str, depth: int) -> Reading[bool]:
    """Take an object or a list; a comma may stand behind its last item."""
    opener = text.take(1)
    given.append(opener)
    has_items = False
    while (following := (yield from text.skip_space())) != _CLOSERS[opener]:
        if has_items:
            if following != ",":
                return False
            text.take(1)
            if (yield from text.skip_space()) == _CLOSERS[opener]:
                break
            given.append(", ")
        if opener == "{" and not (yield from _read_key(text, given, quote)):
            return False
        if not (yield from read_literal(text, given, quote, depth + 1)):
            return False
        has_items = True
    given.append(text.take(1))
    return True


def _read_key(text: PiecewiseText, given: list[str], quote: str) -> Reading[bool]:
    if (yield from _is_string(text, quote)):
        if not (yield from _read_any_string(text, given, quote)):
            return False
    else:
        name = yield from _take_run(text, _BARE_NAME)
        if not name or not quote:
            return False
        given.append(json.dumps(name, ensure_ascii=False))
    is_there = (yield from text.skip_space()) == ":"
    if is_there:
        text.take(1)
        given.append(": ")
    return is_there


def _is_string(text: PiecewiseText, quote: str) -> Reading[bool]:
    if quote and (yield from text.starting((quote,))):
        return True
    return (yield from text.peek()) in _QUOTED


def _read_any_string(text: PiecewiseText, given: list[str], quote: str) -> Reading[bool]:
    if quote and (yield from text.took(quote)):
        return (yield from read_string(text, Markers([quote]), given))
    mark = text.take(1)
    given.append('"')
    while True:
        given.append(_escaped((yield from _take_run(text, _QUOTED[mark], given))))
        end = yield from text.peek()
        if not end:
            return False
        text.take(1)
        if end == mark:
            given.append('"')
            return True
        if not (yield from _read_escape(text, given)):
            return False


def _read_escape(text: PiecewiseText, given: list[str]) -> Reading[bool]:
    """Take what follows a backslash."""
    escape = yield from text.peek()
    if not escape:
        return False
    text.take(1)
    if escape in _HEX_DIGITS:
        digits = ""
        for _ in range(_HEX_DIGITS[escape]):
            if not _HEX.fullmatch((yield from text.peek())):
                return False
            digits += text.take(1)
        given.append(f"\\u{digits:0>4}")
    elif escape != "\n":  # which joins two lines
        given.append(_ESCAPES.get(escape) or _escaped(f"\\{escape}"))
    return True


def _take_run(text: PiecewiseText, run: re.Pattern[str], given: list[str] | None = None) -> Reading[str]:
    """Take characters for as long as they match. given: where those go that are there when more text is needed."""
    taken: list[str] = []
    text.copy_to(taken)
    reading = text.take_run(run)
    for pause in reading:
        if given is not None:
            given.append(_escaped("".join(taken)))
            taken.clear()
        yield pause
    text.copy_to(None)
    return "".join(taken)


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
