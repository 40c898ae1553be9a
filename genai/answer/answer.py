"""A model's answer taken apart: reasoning, content and tool calls, whole or as it comes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from genai.answer.answer_text import Markers, PiecewiseText, Reading
from genai.answer.channels import ChannelsReader
from genai.answer.tool_calls import ToolCall, ToolCallDelta, ToolCallReader
from genai.answer.tool_grammar import answer_grammar
from genai.chat.formats import GENERIC, KNOWN_REASONING, reasoning_begun, reasoning_of
from genai.chat.shapes import Channels, Opener, ReasoningMarkers, ToolFormat
from genai.chat.tools import ToolSet
from genai.options.generation_config import ConstraintConfig
from genai.tokenizer.tokenizer import Tokenizer

_SPACE = re.compile(r"\s*")


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerDelta:
    """What a piece of text adds to an answer."""

    content: str = ""
    reasoning: str = ""
    tool_calls: tuple[ToolCallDelta, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerFormat:
    """How a model writes its answers.

    reasoning: the markers it may use; token_ids: those markers, of reasoning and calls, that are single tokens;
    visible_token_ids: those of them that are special, and have to be part of the text that a parser is given.
    """

    tool_format: ToolFormat = GENERIC
    reasoning: tuple[ReasoningMarkers, ...] = ()
    token_ids: Mapping[str, int] = field(default_factory=dict)
    visible_token_ids: frozenset[int] = frozenset()

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> AnswerFormat:
        """Find a model's format in its chat template's source and its vocabulary."""
        template = tokenizer.chat_template or ""
        tool_format = tokenizer.tool_format
        reasoning = tuple(
            known
            for known in KNOWN_REASONING
            if known.open in template or known.close in template or tokenizer.token_to_id(known.open) is not None
        )
        if tool_format.channels is not None:
            reasoning = (reasoning_of(tool_format.channels),)
        markers = [*tool_format.markers, *(text for known in reasoning for text in (known.open, known.close))]
        found = {marker: tokenizer.token_to_id(marker) for marker in markers}
        token_ids = {marker: token_id for marker, token_id in found.items() if token_id is not None}
        return cls(
            tool_format=tool_format,
            reasoning=reasoning,
            token_ids=token_ids,
            visible_token_ids=frozenset(token_ids.values()) & tokenizer.special_token_ids,
        )

    def parser(
        self, tools: ToolSet | None = None, prompt: str | None = None, *, has_form: bool = False
    ) -> AnswerParser:
        """A parser for one answer.

        tools: None or an empty set: nothing is taken for a call; prompt: the text before the answer, whose end tells
        whether the answer begins inside reasoning; has_form: a grammar writes the answer, so that calls begin as it has
        them begin.
        """
        return AnswerParser(self, tools or ToolSet(), reasoning_begun(prompt, self.reasoning), has_form=has_form)

    def constraint(
        self, tools: ToolSet, prompt: str | None = None, form: ConstraintConfig | None = None
    ) -> ConstraintConfig | None:
        """What an answer must match so that its calls and its content are what the request asks for; None: anything.

        Forced calls are the whole answer, after reasoning, in this model's format, with arguments that follow their
        schemas. Otherwise, strict tools and calls that must stay single constrain the answer from the first call on.
        form: of the content, which begins after reasoning; with tools, the answer is either calls or that.
        Raises: ConfigError for a strict tool whose schema cannot be followed.
        """
        if form is not None and not tools.callable and not self.reasoning:
            return form
        grammar = answer_grammar(self.tool_format, tools, self.reasoning, self.token_ids, prompt, form=form)
        if grammar is None:
            return None
        num_own = len(grammar) - (len(form.grammar) if form is not None and form.kind == "lark" else 0)
        return ConstraintConfig(kind="lark", grammar=grammar, num_own=num_own)


class AnswerParser:
    """Follows one answer. The deltas joined do not depend on how the text was cut.

    White space around reasoning and around calls belongs to neither and is dropped, as far as no content precedes it.
    Text that looked like a call but is none is content; where calls are forced there is no content. What follows
    calls, and is no further one, is dropped: calls end the answer.
    """

    def __init__(
        self, answer_format: AnswerFormat, tools: ToolSet, begun: ReasoningMarkers | None, *, has_form: bool = False
    ) -> None:
        openers = [each for each in answer_format.tool_format.openers if each.is_constrained or not has_form]
        openers = openers if tools.callable else []
        self._text = PiecewiseText()
        self._calls = ToolCallReader(
            self._text, answer_format.tool_format, tools.callable, is_parallel=tools.is_parallel
        )
        self._reasoning_markers = {known.opening: known for known in answer_format.reasoning}
        self._openers = {opener.text: opener for opener in openers}
        self._has_content = not tools.is_forced
        self._first_openers = tuple(opener.text for opener in openers if opener.place != "anywhere")
        self._markers = Markers(
            [opener.text for opener in openers if opener.place == "anywhere"],
            [opener.text for opener in openers if opener.place == "line start"],
        )
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._space: list[str] = []  # white space that is shown only if more text of its kind follows
        self._is_running = True
        self._is_over = False
        channels = answer_format.tool_format.channels
        self._reading = self._read_answer(begun) if channels is None else self._read_channels(channels)
        self._run()

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        """The calls that are complete so far."""
        return tuple(self._calls.calls)

    @property
    def is_over(self) -> bool:
        """Whether the answer has made its calls, and nothing that follows is part of it."""
        return self._is_over

    def push(self, text: str) -> AnswerDelta:
        """Take a piece of the answer; return what is certain with it."""
        assert not self._text.is_ended, "the answer has ended"
        self._text.feed(text)
        return self._run()

    def finish(self) -> AnswerDelta:
        """End the answer; return what was held back."""
        self._text.end()
        return self._run()

    def _run(self) -> AnswerDelta:
        """Read on until more text is needed."""
        if self._is_running:
            try:
                next(self._reading)
            except StopIteration:
                self._is_running = False
        content, reasoning = "".join(self._content), "".join(self._reasoning)
        self._content.clear()
        self._reasoning.clear()
        return AnswerDelta(content=content, reasoning=reasoning, tool_calls=self._calls.take_deltas())

    def _read_answer(self, begun: ReasoningMarkers | None) -> Reading[None]:
        if begun is None and (self._reasoning_markers or self._openers):
            yield from self._text.take_run(_SPACE)
            self._space = [self._text.since_mark()]
        if begun is None and self._reasoning_markers:
            opened = yield from self._text.starting(tuple(self._reasoning_markers))
            if opened is not None:
                self._text.take(len(opened))
                begun = self._reasoning_markers[opened]
        if begun is not None:
            yield from self._read_reasoning(begun)
        yield from self._read_content()
        if begun is None and not self._calls.calls and self._has_content:
            self._content += self._space  # an answer of nothing else

    def _read_channels(self, channels: Channels) -> Reading[None]:
        reader = ChannelsReader(
            self._text, channels, self._calls, say=self._say, think=self._think, between=self._skip_space
        )
        yield from reader.read()
        self._is_over = bool(self._calls.calls)

    def _read_reasoning(self, markers: ReasoningMarkers) -> Reading[None]:
        yield from self._skip_space()
        if (yield from self._read_until(Markers([markers.close]), self._think)):
            self._text.take(len(markers.close))
        yield from self._skip_space()

    def _read_content(self) -> Reading[None]:
        found = None
        if self._first_openers and self._calls.can_take_more:
            found = yield from self._text.starting(self._first_openers)
        while self._calls.can_take_more:
            if found is None:
                found = yield from self._read_until(self._markers, self._say)
            if found is None:
                return
            yield from self._read_calls(self._openers[found])
            found = None
            if self._calls.calls:
                yield from self._skip_space()
                if self._calls.can_take_more:
                    found = yield from self._text.starting(tuple(self._openers))
                if found is None:
                    self._is_over = not self._text.is_ended
                    return
        yield from self._read_until(Markers([]), self._say)

    def _read_calls(self, opener: Opener) -> Reading[None]:
        """Read what an opener announces; as content, if it is no call."""
        self._text.mark()
        if not opener.is_part:
            self._text.take(len(opener.text))
        is_whole = yield from self._calls.read(opener)
        if not is_whole and not self._calls.calls and not (rest := self._text.since_mark()).isspace():
            self._say(rest)

    def _read_until(self, markers: Markers, give: Callable[[str], None]) -> Reading[str | None]:
        """Give all text before the next marker, as it comes; return the marker, or None at the end."""
        while True:
            length, marker = self._text.find(markers)
            give(self._text.take(length))
            self._text.mark()
            if marker is not None or self._text.is_ended:
                return marker
            yield

    def _skip_space(self) -> Reading[None]:
        """Drop white space at a marker."""
        self._space = []
        yield from self._text.take_run(_SPACE)
        self._text.mark()

    def _say(self, text: str) -> None:
        if text and self._has_content:
            self._content += [*self._space, text]
            self._space = []

    def _think(self, text: str) -> None:
        shown = text.rstrip()
        if shown:
            self._reasoning += [*self._space, shown]
            self._space = []
        self._space.append(text[len(shown) :])
