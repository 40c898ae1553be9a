"""What a call looks like, as data: an object of JSON, or a name with arguments behind it, as JSON or one by one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

OpenerPlace = Literal["anywhere", "line start", "start"]
"""Where an opener counts: anywhere in the answer, where a line begins, or where the answer (after reasoning) begins."""

Values = Literal["raw", "json", "python", "quoted"]
"""How arguments are written one by one: strings as they are and the rest as JSON; all as JSON; as JSON but for True,
False and None; strings in a quote of the format's own, and the names in objects without any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JsonCall:
    """A call as an object: `{"id_key": "0", "name_key": NAME, "arguments_key": {…}}`.

    id_key: of the call's number, where models write one.
    """

    name_key: str = "name"
    arguments_key: str = "arguments"
    id_key: str = ""

    def head(self, name: str) -> tuple[str, ...]:
        """What stands before the arguments, in pieces with the call's number between them."""
        named = f'"{self.name_key}": "{name}", "{self.arguments_key}": '
        return (f'{{"{self.id_key}": "', f'", {named}') if self.id_key else (f"{{{named}",)

    @property
    def tail(self) -> str:
        """What stands behind the arguments."""
        return "}"

    @property
    def pairs(self) -> None:
        """The arguments are JSON."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Pairs:
    """Arguments one by one: `before_key NAME after_key VALUE after_value between …`.

    after_string_key: stands for after_key before a string, where models say which values are strings; quote: what
    stands around strings, if values are "quoted".
    """

    before_key: str = ""
    after_key: str
    after_string_key: str = ""
    after_value: str = ""
    between: str = ""
    values: Values = "raw"
    quote: str = ""

    def spelled(self, arguments: Mapping[str, object]) -> str:
        """Arguments as the model would write them."""
        return self.between.join(
            f"{self.before_key}{name}{self.after_key_of(value)}{self._value(value)}{self.after_value}"
            for name, value in arguments.items()
        )

    def after_key_of(self, value: object) -> str:
        """What stands between a name and this value."""
        return self.after_string_key or self.after_key if isinstance(value, str) else self.after_key

    def _value(self, value: object) -> str:
        if self.values == "raw" and isinstance(value, str):
            return value
        if self.values in ("raw", "json") or isinstance(value, str | int | float | None):
            return self._scalar(value)
        if isinstance(value, Mapping):
            return f"{{{self._comma.join(f'{self._name(name)}{self._value(each)}' for name, each in value.items())}}}"
        assert isinstance(value, list)
        return f"[{self._comma.join(map(self._value, value))}]"

    @property
    def _comma(self) -> str:
        return "," if self.quote else ", "

    def _name(self, name: str) -> str:
        return f"{name}:" if self.quote else f"{json.dumps(name, ensure_ascii=False)}: "

    def _scalar(self, value: object) -> str:
        if self.quote and isinstance(value, str):
            return f"{self.quote}{value}{self.quote}"
        if self.values == "python" and isinstance(value, bool | None):
            return str(value)
        return json.dumps(value, ensure_ascii=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedCall:
    """A call as a name and arguments: `before_name NAME id_marker ID before_arguments {…} after_arguments`.

    id_marker: what an id may follow; is_numbered: whether models write the call's number there; pairs: how arguments
    are written that are no object of JSON.
    """

    before_name: str = ""
    id_marker: str = ""
    is_numbered: bool = False
    before_arguments: str = ""
    pairs: Pairs | None = None
    after_arguments: str = ""

    def head(self, name: str) -> tuple[str, ...]:
        """What stands before the arguments, in pieces with the call's number between them."""
        named = self.before_name + name
        return (named + self.id_marker, self.before_arguments) if self.is_numbered else (named + self.before_arguments,)

    @property
    def tail(self) -> str:
        """What stands behind the arguments."""
        return self.after_arguments


@dataclass(frozen=True, slots=True, kw_only=True)
class Opener:
    """What calls begin with.

    text: a marker, or what a call itself begins with; close: the marker that ends them, if there is one; is_part:
    whether the opener is part of the calls; has_label: whether a word may follow the marker, as behind a fence;
    is_constrained: whether the grammar for strict tools covers calls that begin so.
    """

    text: str
    place: OpenerPlace = "anywhere"
    close: str = ""
    is_part: bool = False
    has_label: bool = False
    is_constrained: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Channels:
    """An answer of several messages: `start ROLE channel NAME recipient FUNCTION message TEXT end`.

    Those of the channel `reasoning` are that, those with a recipient are calls, and the rest is content; answer: the
    header of content; begin: what stands between a message and the next one's header.
    """

    start: str = "<|start|>"
    channel: str = "<|channel|>"
    message: str = "<|message|>"
    recipient: str = "to=functions."
    reasoning: str = "analysis"
    answer: str = "<|channel|>final<|message|>"
    begin: str = "<|end|><|start|>assistant"
    ends: tuple[str, ...] = ("<|end|>", "<|return|>", "<|call|>")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """How a model writes calls: what is taken for some, and the one spelling that grammars force.

    ```
    before  CALL  between  … another CALL …  after
    ```
    models: who writes so, for the documentation; signs: strings that are all in the source of a chat template that asks
    for the format; inner_markers: those within before, between and calls that openers do not name; json, named: the
    forms that are read, and is_named which of them is forced; is_parallel: whether the chat template can show several
    calls in one turn; result: what stands around a function's result in a user's turn, for templates without a role for
    it; history_id: the form of the ids that the chat template writes, of a call's name and number in the conversation;
    channels: of answers that are made of messages; then `before` is the header of one that is a call.
    """

    name: str
    models: str = ""
    signs: tuple[str, ...]
    openers: tuple[Opener, ...]
    inner_markers: tuple[str, ...] = ()
    json: JsonCall = JsonCall()
    named: NamedCall = NamedCall()
    is_named: bool = False
    before: str = ""
    between: str = ", "
    after: str = ""
    is_parallel: bool = True
    result: tuple[str, str] = ("<tool_response>\n", "\n</tool_response>")
    history_id: str = ""
    channels: Channels | None = None

    @property
    def call(self) -> JsonCall | NamedCall:
        """The form that grammars force."""
        return self.named if self.is_named else self.json

    @property
    def markers(self) -> tuple[str, ...]:
        """Every marker that may be a token which the model learnt to write calls with."""
        around = [text for opener in self.openers if opener.place == "anywhere" for text in (opener.text, opener.close)]
        return tuple(text for text in (*around, *self.inner_markers) if text)

    def spelled(self, calls: Iterable[tuple[str, str]]) -> str:
        """Calls, names and the JSON of their arguments, as the model would write them."""
        written = [_spelled(self.call, name, arguments, index) for index, (name, arguments) in enumerate(calls)]
        return self.before + self.between.join(written) + self.after


def _spelled(call: JsonCall | NamedCall, name: str, arguments: str, index: int) -> str:
    """A call as the model would write it. arguments: an object's JSON; index: which call of the answer it is."""
    if call.pairs is not None:
        arguments = call.pairs.spelled(json.loads(arguments))
    return f"{str(index).join(call.head(name))}{arguments}{call.tail}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningMarkers:
    """What stands before and after reasoning text; label: what follows the marker that opens it.

    answer: what stands before content then, where no calls may come.
    """

    open: str
    label: str = ""
    close: str
    answer: str = ""

    @property
    def opening(self) -> str:
        """All that stands before."""
        return self.open + self.label
