"""The ways in which models write tool calls, as data, and which of them a chat template asks for.

hermes    <tool_call>{"name": …, "arguments": {…}}</tool_call>      Hermes, Qwen2.5, Qwen3, SmolLM3
granite   <|tool_call|>[{"name": …, "arguments": {…}}]              Granite 3
llama3    {"name": …, "parameters": {…}}, perhaps <|python_tag|>    Llama 3.1 and later
mistral   [TOOL_CALLS] [{"name": …, "arguments": {…}}]              Mistral 7B v0.3, Nemo, Small 3
          [TOOL_CALLS]name[ARGS]{…}                                 Mistral from tokenizer v11 on
json      the first; an object or array alone; one in a fence       templates that know no tools
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

OpenerPlace = Literal["anywhere", "line start", "start"]
"""Where an opener counts: anywhere in the answer, where a line begins, or where the answer (after reasoning) begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Opener:
    """What calls begin with.

    text: a marker, or the first character of a call's JSON; close: the marker that ends them, if there is one;
    is_constrained: whether the grammar for strict tools covers calls that begin so.
    """

    text: str
    place: OpenerPlace = "anywhere"
    close: str = ""
    is_constrained: bool = True

    @property
    def is_json(self) -> bool:
        """Whether the opener is part of the calls."""
        return self.text in ("{", "[")


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolFormat:
    """How a model writes calls: what is taken for one, and the one spelling that grammars force.

    ```
    before  before_name NAME before_arguments {…} after_arguments  between  … another call …  after
    ```
    inner_markers: those within a call; is_parallel: whether the chat template can show several calls in one turn.
    """

    name: Literal["hermes", "granite", "llama3", "mistral", "json"]
    openers: tuple[Opener, ...]
    inner_markers: tuple[str, ...] = ()
    before: str = ""
    before_name: str = '{"name": "'
    before_arguments: str = '", "arguments": '
    after_arguments: str = "}"
    between: str = ", "
    after: str = ""
    is_parallel: bool = True

    @property
    def markers(self) -> tuple[str, ...]:
        """Every marker that may be a token which the model learnt to write calls with."""
        around = [text for opener in self.openers if opener.place == "anywhere" for text in (opener.text, opener.close)]
        return tuple(text for text in (*around, *self.inner_markers) if text)


FENCE = "```"
CALL_ID, ARGUMENTS = "[CALL_ID]", "[ARGS]"

_HERMES = ToolFormat(
    name="hermes",
    openers=(Opener(text="<tool_call>", close="</tool_call>"),),
    before="<tool_call>\n",
    between="\n</tool_call>\n<tool_call>\n",
    after="\n</tool_call>",
)
_JSON = replace(
    _HERMES,
    name="json",
    openers=(
        *_HERMES.openers,
        Opener(text=FENCE, place="line start", close=FENCE, is_constrained=False),
        Opener(text="{", place="line start", is_constrained=False),
        Opener(text="[", place="line start", is_constrained=False),
    ),
)
_GRANITE = ToolFormat(
    name="granite",
    openers=(Opener(text="<|tool_call|>"), *_HERMES.openers),
    before="<|tool_call|>[",
    after="]",
)
_LLAMA3 = ToolFormat(
    name="llama3",
    openers=(Opener(text="<|python_tag|>"), Opener(text="{", place="start")),
    before_arguments='", "parameters": ',
    is_parallel=False,
)
_MISTRAL = ToolFormat(
    name="mistral",
    openers=(Opener(text="[TOOL_CALLS]"),),
    inner_markers=(CALL_ID, ARGUMENTS),
    before="[TOOL_CALLS][",
    after="]",
)
_MISTRAL_NAMED = replace(
    _MISTRAL,
    before="[TOOL_CALLS]",
    before_name="",
    before_arguments=ARGUMENTS,
    after_arguments="",
    between="[TOOL_CALLS]",
    after="",
)


def tool_format_of(template: str) -> ToolFormat:
    """The format that a chat template's source shows; "json" where it shows none."""
    if ARGUMENTS in template and "[TOOL_CALLS]" in template:
        return _MISTRAL_NAMED
    if "[TOOL_CALLS]" in template:
        return replace(_MISTRAL, before="[TOOL_CALLS] [") if "[TOOL_CALLS] [" in template else _MISTRAL
    if "<|tool_call|>" in template:
        return _GRANITE
    if "<tool_call>" in template:
        return _HERMES
    if "<|python_tag|>" in template or "ipython" in template:
        return _LLAMA3
    return _JSON
