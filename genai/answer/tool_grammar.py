"""Grammars (llguidance's Lark dialect) of answers: reasoning, and then calls in the model's own format, or a form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache

from genai.answer.lark_text import ANY_TEXT, LarkText, in_regex
from genai.answer.pairs_grammar import PairsGrammar
from genai.chat.formats import reasoning_begun
from genai.chat.shapes import ReasoningMarkers, ToolFormat
from genai.chat.tools import Tool, ToolSet
from genai.errors import ConfigError
from genai.grammar.compile import lark_body
from genai.grammar.schema import rewritten
from genai.options.generation_config import ConstraintConfig

_APPLICATORS = {"$ref", "allOf", "anyOf", "oneOf", "if", "patternProperties", "additionalProperties"}


def answer_grammar(
    tool_format: ToolFormat,
    tools: ToolSet,
    reasoning: Sequence[ReasoningMarkers],
    token_ids: Mapping[str, int],
    prompt: str | None,
    *,
    form: ConstraintConfig | None = None,
) -> str | None:
    """The grammar of the answers that a request allows, or None if that is any text.

    token_ids: the markers that are single tokens; prompt: its end may open the reasoning; form: what the content has to
    be, behind the reasoning and instead of calls. Raises: ConfigError for a strict tool that no grammar can follow.
    """
    if form is None and not (tools.callable and tools.binds):
        return None
    begun = reasoning_begun(prompt, reasoning)
    grammar = _Grammar(tool_format, token_ids)
    if tools.callable:
        grammar.add_calls(tools)
    answer = tool_format.channels.answer if tool_format.channels else ""
    if tools.is_forced:
        start = f"{grammar.reasoning(reasoning, begun)} calls"
    elif form is not None or answer:
        content = "TEXT?" if form is None else lark_body(form)
        choices = [
            grammar.lark.rule(f"{grammar.lark.spelled(answer)} {content}"),
            *(["calls"] if tools.callable else []),
        ]
        start = f"{grammar.reasoning(reasoning, begun)} ({' | '.join(choices)})"
    elif tool_format.before:
        start = grammar.text_then_calls(reasoning, begun)
    else:
        start = grammar.text_or_calls(reasoning, begun)
    return "\n".join([f"start: {start}", *grammar.lark.rules]) + "\n"


class _Grammar:
    """Rules in the making; the methods return what to put into `start`."""

    def __init__(self, tool_format: ToolFormat, token_ids: Mapping[str, int]) -> None:
        self._format = tool_format
        self._marker = tool_format.openers[0].text if tool_format.before else ""
        self.lark = LarkText(token_ids)

    def add_calls(self, tools: ToolSet) -> None:
        """Add `calls`, and `unmarked`, which is calls without the marker before the first."""
        form, spelled = self._format, self.lark.spelled
        more = f"({spelled(form.between)} call)*" if tools.is_parallel and form.is_parallel else ""
        self.lark.rules += [
            f"calls: {spelled(self._marker)} unmarked",
            f"unmarked: {spelled(form.before.removeprefix(self._marker))} call {more} {spelled(form.after)}",
            f"call: {' | '.join(self._call(tool, tools) for tool in tools.callable)}",
        ]

    def _call(self, tool: Tool, tools: ToolSet) -> str:
        """A rule for calls of one tool. Raises: ConfigError if it is strict, and no grammar follows its schema."""
        call = self._format.call
        head = " NUMBER ".join(map(self.lark.spelled, call.head(tool.name)))
        if not self._marker:  # another object may stand there: what both begin with is a lexeme of its own
            head = f"{self.lark.spelled(call.head('')[0][0])} {self.lark.spelled(call.head(tool.name)[0][1:])}"
        mark = self.lark.mark()
        try:
            arguments = self._arguments(_schema(tool, is_forced=tools.is_forced))
        except ConfigError as error:
            if tool.is_strict:
                raise ConfigError(f"tools: no grammar can follow them (strict: {tool.name}): {error}") from None
            self.lark.back_to(mark)
            arguments = self._arguments({"type": "object"})
        return self.lark.rule(f"{head} {arguments} {self.lark.spelled(call.tail)}")

    def _arguments(self, schema: Mapping[str, object]) -> str:
        pairs = self._format.call.pairs
        if pairs is not None:
            return PairsGrammar(self.lark, pairs, schema).arguments()
        if fault := _fault_of(json.dumps(schema)):
            raise ConfigError(fault)
        return self.lark.json(schema)

    def reasoning(self, allowed: Sequence[ReasoningMarkers], begun: ReasoningMarkers | None) -> str:
        """What reasoning the answer may begin with; or, where the prompt has begun it, must go on with."""
        if begun is not None:
            return f"{self.lark.through(begun.close)} GAP?"
        choices = [f"{self.lark.spelled(known.opening)} {self.lark.through(known.close)} GAP?" for known in allowed]
        return f"({' | '.join(choices)})?" if choices else ""

    def text_then_calls(self, allowed: Sequence[ReasoningMarkers], begun: ReasoningMarkers | None) -> str:
        """Any text, and calls from the first marker on."""
        # reasoning between markers that are plain text is part of TEXT
        ids = self.lark.token_ids
        tokens = [known for known in allowed if {known.open, known.close} <= ids.keys()]
        reasoning = self.reasoning(tokens, begun if begun in tokens else None)
        if self._marker in ids:
            return f"{reasoning} TEXT? calls?"
        first, rest = self.lark.split(self._marker)
        if rest:
            text = self.lark.rule(f"/{ANY_TEXT}{in_regex(first)}/")
            return f"{reasoning} (TEXT? | {text} {rest} unmarked)"
        # a lazy rule ends with the first marker, so that TEXT cannot run on over it
        self.lark.rules.append(f"text_and_marker[lazy]: /{ANY_TEXT}{in_regex(self._marker)}/")
        return f"{reasoning} (TEXT? | text_and_marker unmarked)"

    def text_or_calls(self, allowed: Sequence[ReasoningMarkers], begun: ReasoningMarkers | None) -> str:
        """Calls that no marker announces, or a text that begins neither as they do nor as reasoning in plain text."""
        first = {known.open[0] for known in allowed if known.open not in self.lark.token_ids}
        first.add(self._format.call.head("")[0][0])
        self.lark.rules.append(rf"PLAIN: /\s*[^\s{in_regex(''.join(sorted(first)))}](.|\n)*/")
        return f"{self.reasoning(allowed, begun)} (PLAIN? | calls)"


@lru_cache(maxsize=1024)
def _fault_of(schema: str) -> str | None:
    """Why no grammar can follow a JSON schema, as far as can be told without compiling one."""
    try:
        rewritten(schema)
    except ConfigError as error:
        return str(error)
    return None


def _schema(tool: Tool, *, is_forced: bool) -> Mapping[str, object]:
    """What the arguments must match: any object for a tool that is not strict and need not be called."""
    if not is_forced and not tool.is_strict:
        return {"type": "object"}
    if "properties" in tool.parameters and not tool.parameters.keys() & _APPLICATORS:
        return {**tool.parameters, "additionalProperties": False}  # arguments that the function has not help nobody
    return tool.parameters
