"""Grammars (llguidance's Lark dialect) that have a model write tool calls in its own format.

A marker that is one token of the vocabulary is asked for by its id, `<[id]>`: so the model learnt to write it, and
llguidance matches special tokens in no other way.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from genai.chat.formats import ReasoningMarkers, ToolFormat, reasoning_begun
from genai.chat.tools import Tool, ToolSet

_APPLICATORS = {"$ref", "allOf", "anyOf", "oneOf", "if", "patternProperties", "additionalProperties"}


def tool_grammar(
    tool_format: ToolFormat,
    tools: ToolSet,
    reasoning: Sequence[ReasoningMarkers],
    token_ids: Mapping[str, int],
    prompt: str | None,
) -> str | None:
    """The grammar of the answers that a request allows, or None if that is any text.

    token_ids: the markers that are single tokens; prompt: its end may open the reasoning.
    """
    if not tools.callable or not tools.binds:
        return None
    begun = reasoning_begun(prompt, reasoning)
    grammar = _Grammar(tool_format, token_ids)
    grammar.add_calls(tools)
    if tools.is_forced:
        start = f"{grammar.reasoning(reasoning, begun)} calls"
    elif tool_format.before:
        start = grammar.text_then_calls(reasoning, begun)
    else:
        start = grammar.text_or_calls(reasoning, begun)
    return "\n".join([f"start: {start}", *grammar.rules]) + "\n"


class _Grammar:
    """Rules in the making; the methods return what to put into `start`."""

    def __init__(self, tool_format: ToolFormat, token_ids: Mapping[str, int]) -> None:
        self._format = tool_format
        self._marker = tool_format.openers[0].text if tool_format.before else ""
        self._token_ids = token_ids
        self._tokens = re.compile(f"({'|'.join(map(re.escape, token_ids))})" if token_ids else r"((?!))")
        self.rules = [r"TEXT: /(.|\n)+/", r"GAP: /[ \n]{1,4}/", r"NUMBER: /[0-9]{1,2}/"]

    def add_calls(self, tools: ToolSet) -> None:
        """Add `calls`, and `unmarked`, which is calls without the marker before the first."""
        form, count = self._format, len(tools.callable)
        more = f"({self._spelled(form.between)} call)*" if tools.is_parallel and form.is_parallel else ""
        before = self._spelled(form.before.removeprefix(self._marker))
        self.rules += [
            f"calls: {self._spelled(self._marker)} unmarked",
            f"unmarked: {before} call {more} {self._spelled(form.after)}",
            f"call: {' | '.join(f'call_{index}' for index in range(count))}",
        ]
        for index, tool in enumerate(tools.callable):
            head = " NUMBER ".join(map(self._spelled, form.call.head(tool.name)))
            schema = json.dumps(_schema(tool, is_forced=tools.is_forced))
            self.rules.append(f"call_{index}: {head} arguments_{index} {self._spelled(form.call.tail)}")
            self.rules.append(f"arguments_{index}: %json {schema}")

    def reasoning(self, allowed: Sequence[ReasoningMarkers], begun: ReasoningMarkers | None) -> str:
        """What reasoning the answer may begin with; or, where the prompt has begun it, must go on with."""
        if begun is not None:
            return f"{self._through(begun.close, 'thought')} GAP?"
        choices = [
            f"{self._spelled(known.open)} {self._through(known.close, f'thought_{index}')} GAP?"
            for index, known in enumerate(allowed)
        ]
        return f"({' | '.join(choices)})?" if choices else ""

    def text_then_calls(self, allowed: Sequence[ReasoningMarkers], begun: ReasoningMarkers | None) -> str:
        """Any text, and calls from the first marker on."""
        # reasoning between markers that are plain text is part of TEXT
        tokens = [known for known in allowed if {known.open, known.close} <= self._token_ids.keys()]
        reasoning = self.reasoning(tokens, begun if begun in tokens else None)
        if self._marker in self._token_ids:
            return f"{reasoning} TEXT? calls?"
        # a lazy rule ends with the first marker, so that TEXT cannot run on over it
        self.rules.append(rf"text_and_marker[lazy]: /(.|\n)*{re.escape(self._marker)}/")
        return f"{reasoning} (TEXT? | text_and_marker unmarked)"

    def text_or_calls(self, allowed: Sequence[ReasoningMarkers], begun: ReasoningMarkers | None) -> str:
        """Calls that no marker announces, or a text that begins neither as they do nor as reasoning in plain text."""
        first = {known.open[0] for known in allowed if known.open not in self._token_ids}
        first.add(self._format.call.head("")[0][0])
        self.rules.append(rf"PLAIN: /\s*[^\s{re.escape(''.join(sorted(first)))}](.|\n)*/")
        return f"{self.reasoning(allowed, begun)} (PLAIN? | calls)"

    def _through(self, marker: str, name: str) -> str:
        """Any text up to and with a marker."""
        if marker in self._token_ids:
            return f"TEXT? {self._spelled(marker)}"
        self.rules.append(rf"{name}[suffix={_literal(marker)}]: /(.|\n)*/")
        return name

    def _spelled(self, text: str) -> str:
        """A text as literals and the tokens that are markers."""
        ids = self._token_ids
        parts = [part for part in self._tokens.split(text) if part]
        return " ".join(f"<[{ids[part]}]>" if part in ids else _literal(part) for part in parts)


def _schema(tool: Tool, *, is_forced: bool) -> Mapping[str, object]:
    """What the arguments must match: any object for a tool that is not strict and need not be called."""
    if not is_forced and not tool.is_strict:
        return {"type": "object"}
    if "properties" in tool.parameters and not tool.parameters.keys() & _APPLICATORS:
        return {**tool.parameters, "additionalProperties": False}  # arguments that the function has not help nobody
    return tool.parameters


def _literal(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
