"""Arguments that are written one by one, read as they arrive: what is given is their JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import NoReturn

from genai.answer.answer_text import Markers, PiecewiseText, Reading
from genai.answer.argument_types import ALL_TYPES, properties_of, type_of, types_of
from genai.answer.tool_literals import WORDS, read_literal, read_string
from genai.chat.shapes import Pairs

MAX_NAME = 256
"""Longest name of an argument, in characters: until it ends, nothing of it is given."""

_BETWEEN_TAGS = re.compile(r"\n|(?<=>)(?=<)")
_RAW_NAME = re.compile(r"[^<>\n]*")
_BARE_NAME = re.compile(r"[^\s\"'(){}\[\],]*")


class PairsReader:
    """Reads the arguments of one call.

    ends: what stands behind the last of them, which is not taken; schema: of the arguments; given: where their JSON
    goes, piece by piece.
    """

    def __init__(
        self,
        text: PiecewiseText,
        pairs: Pairs,
        ends: Sequence[str],
        schema: Mapping[str, object],
        given: list[str],
    ) -> None:
        self._text = text
        self._pairs = pairs
        self._ends = ends
        self._schema = schema
        self._properties = properties_of(schema)
        self._given = given
        spellings = [pairs.after_key, *filter(None, [pairs.after_string_key])]
        self._after_keys = [[piece for piece in _BETWEEN_TAGS.split(spelling) if piece] for spelling in spellings]
        self._name_ends = Markers([pieces[0] for pieces in self._after_keys])
        self._name = _RAW_NAME if pairs.values == "raw" else _BARE_NAME
        close = pairs.after_value.strip()
        self._value_ends = Markers([f"\n{close}", close] if pairs.after_value.startswith("\n") else [close])

    def read(self) -> Reading[bool]:
        """Read all arguments. False: they are not of this form."""
        names: set[str] = set()
        self._given.append("{")
        while True:
            yield from self._text.skip_space()
            if names and not (yield from self._text.starting(self._ends)):
                if not (yield from self._text.took(self._pairs.between.strip())):
                    return False
                yield from self._text.skip_space()
            if (yield from self._text.starting(self._ends)):
                self._given.append("}")
                return True
            read = yield from self._read_name()
            if read is None or read[0] in names:
                return False
            name, is_string = read
            self._given.append(f"{', ' if names else ''}{json.dumps(name, ensure_ascii=False)}: ")
            names.add(name)
            if not (yield from self._read_value(name, is_string)):
                return False

    def _read_name(self) -> Reading[tuple[str, bool | None] | None]:
        """Take a name and what follows it; and whether that says that the value is a string, None if it does not."""
        if not (yield from self._text.took(self._pairs.before_key.strip())):
            return None
        name = ""
        while True:
            length, end = self._text.find(self._name_ends)
            for _ in range(length):  # no further than to the first that cannot be: calls may begin behind it
                name += self._text.take(1)
                if len(name) > MAX_NAME or not self._name.fullmatch(name.strip().strip(self._pairs.quote)):
                    return None
            if end is not None:
                break
            if self._text.is_ended:
                return None
            yield
        spelling = next(index for index, pieces in enumerate(self._after_keys) if pieces[0] == end)
        for piece in self._after_keys[spelling]:
            yield from self._text.skip_space()
            if not (yield from self._text.took(piece)):
                return None
        name = name.strip().removeprefix(self._pairs.quote).removesuffix(self._pairs.quote)
        return name, (spelling == 1 if self._pairs.after_string_key else None)

    def _read_value(self, name: str, is_string: bool | None) -> Reading[bool]:
        if self._pairs.values != "raw":
            return (yield from read_literal(self._text, self._given, self._pairs.quote))
        if self._pairs.after_key.endswith("\n") and (yield from self._text.peek()) == "\n":
            self._text.take(1)
        if is_string is None:
            types = types_of(self._properties.get(name, {}), self._schema)
        else:
            types = frozenset({"string"}) if is_string else ALL_TYPES
        if types == {"string"}:
            return (yield from read_string(self._text, self._value_ends, self._given))
        value: list[str] = []
        is_whole = yield from read_string(self._text, self._value_ends, value)
        if is_whole:
            self._given.append(_of_raw(str(json.loads("".join(value))), types))
        return is_whole


def _of_raw(value: str, types: frozenset[str]) -> str:
    """The JSON of a value that is written as it is: a string where it can be nothing else that the schema admits."""
    text = value.strip()
    if types != ALL_TYPES and text in WORDS and type_of(json.loads(WORDS[text])) in types:
        return WORDS[text]
    try:
        found = type_of(json.loads(text, parse_constant=_refuse))
    except (ValueError, RecursionError):
        return json.dumps(value, ensure_ascii=False)
    if "string" not in types or types == ALL_TYPES or found in types - {"string"}:
        return text
    return text if found == "integer" and "number" in types else json.dumps(value, ensure_ascii=False)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
