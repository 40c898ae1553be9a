"""How models write reasoning and tool calls: two tables, from which everything else about a format follows.

hermes    <tool_call>{"name": …, "arguments": {…}}</tool_call>      Hermes, Qwen2.5, Qwen3, SmolLM3
granite   <|tool_call|>[{"name": …, "arguments": {…}}]              Granite 3
llama3    {"name": …, "parameters": {…}}, perhaps <|python_tag|>    Llama 3.1 and later
mistral   [TOOL_CALLS] [{"name": …, "arguments": {…}}]              Mistral 7B v0.3, Nemo, Small 3
          [TOOL_CALLS]name[ARGS]{…}                                 Mistral from tokenizer v11 on
json      the first; an object or array alone; one in a fence       templates that know no tools

A further format whose arguments are JSON is one more entry: templates are recognised, calls read and forced, and
conversations spelled by it. Only another syntax of arguments needs a reader of its own (`genai.answer.tool_calls`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

OpenerPlace = Literal["anywhere", "line start", "start"]
"""Where an opener counts: anywhere in the answer, where a line begins, or where the answer (after reasoning) begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasoningMarkers:
    """What stands before and after reasoning text."""

    open: str
    close: str


KNOWN_REASONING = (
    ReasoningMarkers(open="<think>", close="</think>"),  # Qwen3, DeepSeek R1, SmolLM3, Olmo 3, Granite 3.3, Phi-4
    ReasoningMarkers(open="[THINK]", close="[/THINK]"),  # Magistral and later models of Mistral
    ReasoningMarkers(open="<seed:think>", close="</seed:think>"),  # Seed-OSS
    ReasoningMarkers(open="<|START_THINKING|>", close="<|END_THINKING|>"),  # Command A Reasoning
    ReasoningMarkers(open="◁think▷", close="◁/think▷"),  # Kimi-VL
    ReasoningMarkers(open="<|begin_of_thought|>", close="<|end_of_thought|>"),  # OpenThinker, Sky-T1
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Opener:
    """What calls begin with.

    text: a marker, or the first character of a call's JSON; close: the marker that ends them, if there is one;
    has_label: whether a word may follow the marker, as behind a fence; is_constrained: whether the grammar for strict
    tools covers calls that begin so.
    """

    text: str
    place: OpenerPlace = "anywhere"
    close: str = ""
    has_label: bool = False
    is_constrained: bool = True

    @property
    def is_json(self) -> bool:
        """Whether the opener is part of the calls."""
        return self.text in ("{", "[")


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


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedCall:
    """A call as a name and an object: `before_name NAME id_marker ID before_arguments {…} after_arguments`.

    id_marker: what an id may follow; is_numbered: whether models write the call's number there.
    """

    before_name: str = ""
    id_marker: str = ""
    is_numbered: bool = False
    before_arguments: str = ""
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
class ToolFormat:
    """How a model writes calls: what is taken for some, and the one spelling that grammars force.

    ```
    before  CALL  between  … another CALL …  after
    ```
    signs: strings that are all in the source of a chat template that asks for the format; inner_markers: those within
    before, between and calls that openers do not name; json, named: the forms that are read, and is_named which of them
    is forced; is_parallel: whether the chat template can show several calls in one turn; result: what stands around a
    function's result in a user's turn, for templates without a role for it.
    """

    name: str
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
        written = [
            f"{str(index).join(self.call.head(name))}{arguments}{self.call.tail}"
            for index, (name, arguments) in enumerate(calls)
        ]
        return self.before + self.between.join(written) + self.after


_HERMES = ToolFormat(
    name="hermes",
    signs=("<tool_call>",),
    openers=(Opener(text="<tool_call>", close="</tool_call>"),),
    before="<tool_call>\n",
    between="\n</tool_call>\n<tool_call>\n",
    after="\n</tool_call>",
)
_LLAMA3 = ToolFormat(
    name="llama3",
    signs=("<|python_tag|>",),
    openers=(Opener(text="<|python_tag|>"), Opener(text="{", place="start")),
    json=JsonCall(arguments_key="parameters"),
    is_parallel=False,
)
_MISTRAL = ToolFormat(
    name="mistral",
    signs=("[TOOL_CALLS]",),
    openers=(Opener(text="[TOOL_CALLS]"),),
    inner_markers=("[CALL_ID]", "[ARGS]"),
    named=NamedCall(id_marker="[CALL_ID]", before_arguments="[ARGS]"),
    before="[TOOL_CALLS][",
    after="]",
)
GENERIC = replace(
    _HERMES,
    name="json",
    signs=(),
    openers=(
        *_HERMES.openers,
        Opener(text="```", place="line start", close="```", has_label=True, is_constrained=False),
        Opener(text="{", place="line start", is_constrained=False),
        Opener(text="[", place="line start", is_constrained=False),
    ),
)
"""The format of models that have none: what they are told to write, and what they write all the same."""

TOOL_FORMATS = (
    replace(
        _MISTRAL,
        signs=("[TOOL_CALLS]", "[ARGS]"),
        is_named=True,
        before="[TOOL_CALLS]",
        between="[TOOL_CALLS]",
        after="",
    ),
    replace(_MISTRAL, signs=("[TOOL_CALLS] [",), before="[TOOL_CALLS] ["),
    _MISTRAL,
    ToolFormat(
        name="granite",
        signs=("<|tool_call|>",),
        openers=(Opener(text="<|tool_call|>"), *_HERMES.openers),
        before="<|tool_call|>[",
        after="]",
    ),
    _HERMES,
    _LLAMA3,
    replace(_LLAMA3, signs=("ipython",)),
    GENERIC,
)
"""The formats, the most specific signs first."""


def tool_format_of(template: str) -> ToolFormat:
    """The first format whose signs a chat template's source has; the generic one where it shows none."""
    return next((known for known in TOOL_FORMATS if all(sign in template for sign in known.signs)), GENERIC)


def reasoning_begun(prompt: str | None, known: Sequence[ReasoningMarkers]) -> ReasoningMarkers | None:
    """The markers inside which an answer to this prompt begins: templates may open the reasoning themselves."""
    end = (prompt or "").rstrip()
    return next((markers for markers in known if end.endswith(markers.open)), None)
