"""Tool calls, whole and in pieces, and the reader that finds them behind a marker."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace

from genai.answer.answer_text import PiecewiseText, Reading
from genai.answer.tool_json import read_colon, read_json
from genai.answer.tool_pairs import PairsReader
from genai.chat.shapes import Opener, Pairs, ToolFormat
from genai.chat.tools import Tool


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCall:
    """One call; arguments: the JSON text of an object, as the model wrote it."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolCallDelta:
    """A piece of a call, in the shape of OpenAI's stream: id and name come once, then pieces of the arguments.

    index: which call of the answer it belongs to.
    """

    index: int
    id: str | None = None
    name: str | None = None
    arguments: str = ""


_LABEL = re.compile(r"[a-zA-Z0-9_-]*")
_NAME_START = re.compile(r"[a-zA-Z_]")
_MOST_REPEATED = 1
"""How many calls of an answer may be the same as earlier ones, word for word: models that do not stop repeat theirs."""


@dataclass(slots=True, kw_only=True)
class _OpenCall:
    """A call that is being read.

    waiting: arguments that no delta has given yet; given: those before; is_begun: whether it may be given; id: set when
    the first delta has been made.
    """

    names: frozenset[str]
    name: str | None = None
    id: str | None = None
    is_begun: bool = False
    has_arguments: bool = False
    waiting: list[str]
    given: list[str]


class ToolCallReader:
    """Reads calls from a text and gives them in pieces.

    Arguments are given as they come once the name is known to be one of the tools'. Should such a call then turn out
    to be broken, it is not among `calls`, and its text belongs to the content; the pieces stay given.
    """

    def __init__(
        self, text: PiecewiseText, tool_format: ToolFormat, tools: Sequence[Tool], *, is_parallel: bool
    ) -> None:
        self._text = text
        self._named = tool_format.named
        self._is_in_lines = tool_format.is_named and tool_format.between.isspace()
        self._name_key = tool_format.json.name_key
        self._argument_keys = {"arguments", "parameters", tool_format.json.arguments_key}
        self._keys = {self._name_key, *self._argument_keys, tool_format.json.id_key, "id", "type"}
        self._is_parallel = is_parallel
        self._schemas = {tool.name: tool.parameters for tool in tools}
        self._names = frozenset(self._schemas)
        self._lenient_names = frozenset(tool.name for tool in tools if not tool.is_strict)
        self._num_begun = 0
        self._deltas: list[ToolCallDelta] = []
        self._call: _OpenCall | None = None
        self._num_repeated = 0
        self.calls: list[ToolCall] = []

    @property
    def can_take_more(self) -> bool:
        """Whether a further call would be read."""
        return bool(self._names) and self._num_repeated <= _MOST_REPEATED and (self._is_parallel or not self.calls)

    def knows(self, name: str) -> bool:
        """Whether a call of this function would be read."""
        return name in self._names

    def read_arguments_of(self, name: str) -> Reading[bool]:
        """Read the object that is a call's arguments, its name being known. False: it is none."""
        call = self._call = _OpenCall(names=self._names, name=name, waiting=[], given=[])
        is_whole = yield from self._read_arguments(call)
        if is_whole:
            self._end(call)
        self._give_arguments()
        self._call = None
        return is_whole

    def take_deltas(self) -> tuple[ToolCallDelta, ...]:
        """The pieces since the last call."""
        self._give_arguments()
        deltas, self._deltas = self._deltas, []
        return tuple(deltas)

    def read(self, opener: Opener) -> Reading[bool]:
        """Read the calls that an opener, just taken, has announced, and their closing marker.

        False: this is not all calls; the text since the mark is content. The mark moves behind each call.
        """
        names = self._names if opener.is_constrained else self._lenient_names
        if opener.has_label:
            yield from self._text.take_run(_LABEL)
        is_whole = yield from self._read_calls(names, opener.close)
        self._give_arguments()
        self._call = None
        if is_whole and opener.close:
            yield from self._text.skip_space()
            if (yield from self._text.starting((opener.close,))):
                self._text.take(len(opener.close))
        return is_whole

    def _read_calls(self, names: frozenset[str], close: str) -> Reading[bool]:
        first = yield from self._text.skip_space()
        if first == "[":
            return (yield from self._read_array(names, close))
        if first == "{":
            return (yield from self._read_objects(names))
        return (yield from self._read_all_named(names, close))

    def _read_array(self, names: frozenset[str], close: str) -> Reading[bool]:
        separator = "["
        while separator != "]":
            self._text.take(1)
            first = yield from self._text.skip_space()
            if not self.can_take_more:
                return False
            is_object = first == "{" or self._named.pairs is None
            if not (yield from (self._read_object(names) if is_object else self._read_named(names, close))):
                return False
            separator = yield from self._text.skip_space()
            if separator not in (",", "]"):
                return False
        self._text.take(1)
        return True

    def _read_objects(self, names: frozenset[str]) -> Reading[bool]:
        """Objects one after the other, with or without a semicolon between them."""
        following = "{"
        while following == "{":
            if not (yield from self._read_object(names)):
                return False
            if not self.can_take_more:
                return True
            following = yield from self._text.skip_space()
            if following == ";":
                self._text.take(1)
                if (yield from self._text.skip_space()) != "{":
                    return False
                following = "{"
        return True

    def _read_object(self, names: frozenset[str]) -> Reading[bool]:
        """Read `{"name": …, "arguments": {…}}`, its keys in any order."""
        call = self._call = _OpenCall(names=names, waiting=[], given=[])
        if (yield from self._text.peek()) != "{":
            return False
        missing = set(self._keys)
        separator = ","
        while separator == ",":
            self._text.take(1)
            key = yield from self._read_word(missing)
            if key is None or not (yield from read_colon(self._text)):
                return False
            missing -= self._argument_keys if key in self._argument_keys else {key}
            if not (yield from self._read_value(call, key)):
                return False
            separator = yield from self._text.skip_space()
        if separator != "}" or call.name is None:
            return False
        self._text.take(1)
        self._end(call)
        return True

    def _read_value(self, call: _OpenCall, key: str) -> Reading[bool]:
        if key == self._name_key:
            call.name = yield from self._read_word(call.names)
            return call.name is not None
        if key in self._argument_keys:
            return (yield from self._read_arguments(call))
        return (yield from read_json(self._text))

    def _read_word(self, words: frozenset[str] | set[str]) -> Reading[str | None]:
        """Take a JSON string that is one of the words, without escapes; None as soon as it can be none of them."""
        if (yield from self._text.skip_space()) != '"':
            return None
        self._text.take(1)
        word = ""
        while True:
            character = yield from self._text.peek()
            if character == '"' and word in words:
                self._text.take(1)
                return word
            if not character or not any(other.startswith(word + character) for other in words):
                return None
            word += self._text.take(1)

    def _read_arguments(self, call: _OpenCall) -> Reading[bool]:
        """Read an object; null for none; or, as OpenAI's API has it, a string that holds an object's JSON."""
        first = yield from self._text.skip_space()
        call.has_arguments = True
        if first == "{":
            call.is_begun = call.name is not None
            return (yield from self._copy_json(call.waiting))
        value: list[str] = []
        if first not in ('"', "n") or not (yield from self._copy_json(value)):
            return False
        held = "{}" if first == "n" else _object_in("".join(value))
        call.waiting.append(held or "")
        return held is not None

    def _copy_json(self, copy: list[str]) -> Reading[bool]:
        self._text.copy_to(copy)
        is_json = yield from read_json(self._text)
        self._text.copy_to(None)
        return is_json

    def _read_all_named(self, names: frozenset[str], close: str) -> Reading[bool]:
        """Read calls that begin with a name, or each with the marker before it."""
        while True:
            if not (yield from self._read_named(names, close)):
                return False
            if not self.can_take_more or not (self._named.before_name or self._is_in_lines):
                return True
            following = yield from self._text.skip_space()
            if self._named.before_name:
                has_more = (yield from self._text.starting((self._named.before_name,))) is not None
            else:
                has_more = _NAME_START.match(following) is not None
            if not has_more:
                return True

    def _read_named(self, names: frozenset[str], close: str) -> Reading[bool]:
        """Read a call's name and, behind the form's markers or at once, its arguments. close: what ends all calls."""
        call = self._call = _OpenCall(names=names, waiting=[], given=[])
        if not (yield from self._text.took(self._named.before_name)):
            return False
        call.name = yield from self._read_name(names)
        if call.name is None:
            return False
        if self._named.pairs is not None:
            is_whole = yield from self._read_pairs(call, call.name, self._named.pairs, close)
        else:
            is_whole = yield from self._read_named_object(call)
        if not is_whole:
            return False
        yield from self._text.skip_space()
        yield from self._text.took(self._named.after_arguments.strip())
        self._end(call)
        return True

    def _read_name(self, names: frozenset[str]) -> Reading[str | None]:
        """Take the longest of the names that comes next."""
        name = ""
        while True:
            character = yield from self._text.peek()
            if not character or not any(other.startswith(name + character) for other in names):
                return name if name in names else None
            name += self._text.take(1)

    def _read_named_object(self, call: _OpenCall) -> Reading[bool]:
        """Read what may be an id, a marker, and `{…}`."""
        has_id = bool(self._named.id_marker) and (yield from self._text.took(self._named.id_marker))
        if has_id:
            yield from self._text.take_run(_LABEL)
        marker = self._named.before_arguments
        has_marker = bool(marker) and (yield from self._text.took(marker))
        following = yield from (self._text.skip_space() if has_marker else self._text.peek())
        if following != "{" or (has_id and marker and not has_marker):
            return False
        return (yield from self._read_arguments(call))

    def _read_pairs(self, call: _OpenCall, name: str, pairs: Pairs, close: str) -> Reading[bool]:
        """Read arguments one by one, up to what ends the call."""
        yield from self._text.skip_space()
        if not (yield from self._text.took(self._named.before_arguments.strip())):
            return False
        ends = (self._named.after_arguments.strip() or close,)
        yield from self._text.skip_space()
        before = pairs.before_key.strip()
        if before and not (yield from self._text.starting((before, *ends))):
            return False
        call.is_begun = call.has_arguments = True
        return (yield from PairsReader(self._text, pairs, ends, self._schemas[name], call.waiting).read())

    def _give_arguments(self) -> None:
        """Give the arguments that have come since the last delta, if their call may be given."""
        call = self._call
        if call is not None and call.is_begun and not self._may_repeat(call):
            self._give(call)

    def _give(self, call: _OpenCall) -> None:
        """Give a call's id and name, once, and the arguments that have come since."""
        if call.id is None:
            call.id = f"call_{secrets.token_hex(12)}"
            self._deltas.append(ToolCallDelta(index=self._num_begun, id=call.id, name=call.name))
            self._num_begun += 1
        piece = "".join(call.waiting)
        call.waiting.clear()
        if not piece:
            return
        call.given.append(piece)
        index = self._num_begun - 1
        if self._deltas and self._deltas[-1].index == index:
            last = self._deltas.pop()
            self._deltas.append(replace(last, arguments=last.arguments + piece))
        else:
            self._deltas.append(ToolCallDelta(index=index, arguments=piece))

    def _may_repeat(self, call: _OpenCall) -> bool:
        """Whether a call of which nothing is given is so far an earlier one, and there may be no more of these."""
        if call.id is not None or self._num_repeated < _MOST_REPEATED:
            return False
        arguments = "".join(call.waiting)
        return any(each.name == call.name and each.arguments.startswith(arguments) for each in self.calls)

    def _end(self, call: _OpenCall) -> None:
        if not call.has_arguments:
            call.waiting.append("{}")
        is_last = self._may_repeat(call)  # to its end: no object begins another
        arguments = "".join([*call.given, *call.waiting])
        self._num_repeated += any((each.name, each.arguments) == (call.name, arguments) for each in self.calls)
        if not is_last:
            self._give(call)
            assert call.id is not None
            assert call.name is not None
            self.calls.append(ToolCall(id=call.id, name=call.name, arguments=arguments))
        self._call = None
        self._text.mark()


def _object_in(string: str) -> str | None:
    """The JSON of the object that a JSON string holds, or None if it holds none."""
    text, held = PiecewiseText(), str(json.loads(string)).strip()
    text.feed(held)
    text.end()
    if not held.startswith("{") or any("\ud800" <= character <= "\udfff" for character in held):
        return None
    reading = read_json(text)
    try:
        while True:
            next(reading)
    except StopIteration as end:
        return held if end.value and text.since_mark() == held else None
