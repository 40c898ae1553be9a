"""Answers that are made of messages, each with a header that says what it is, read as they arrive."""

from __future__ import annotations

import re
from collections.abc import Callable

from genai.answer.answer_text import Markers, PiecewiseText, Reading
from genai.answer.tool_calls import ToolCallReader
from genai.chat.shapes import Channels

MAX_HEADER = 512
"""Longest header, in characters: until it ends, nothing is given of what may follow."""


class ChannelsReader:
    """Reads the messages of one answer.

    calls: reads and keeps calls; say, think: take what is content and what is reasoning, piece by piece; between: drops
    white space between two messages.
    """

    def __init__(
        self,
        text: PiecewiseText,
        channels: Channels,
        calls: ToolCallReader,
        *,
        say: Callable[[str], None],
        think: Callable[[str], None],
        between: Callable[[], Reading[None]],
    ) -> None:
        self._text = text
        self._channels = channels
        self._calls = calls
        self._say = say
        self._think = think
        self._between = between
        self._openings = (channels.start, channels.channel, channels.recipient)
        self._header_end = Markers([channels.message])
        self._ends = Markers([*channels.ends, channels.start])
        self._name = re.compile(f"{re.escape(channels.channel)}\\s*([a-z]+)")
        self._function = re.compile(f"{re.escape(channels.recipient)}([^\\s<]+)")

    def read(self) -> Reading[None]:
        """Read to the end of the text, or to that of the calls."""
        was_reasoning = False
        while True:
            yield from self._between()
            if not (yield from self._text.peek()):
                return
            header = ""
            if (yield from self._text.starting(self._openings)):
                found = yield from self._read_header()
                if found is None:
                    return
                header = found
            name, function = self._name.search(header), self._function.search(header)
            is_reasoning = name is not None and name[1] == self._channels.reasoning and function is None
            if function is not None and self._calls.knows(function[1]):
                self._text.mark()
                if (yield from self._calls.read_arguments_of(function[1])):
                    return
                self._say(self._text.since_mark())
                yield from self._read_body(self._say)
            elif is_reasoning:
                if was_reasoning:
                    self._think("\n\n")
                yield from self._read_body(self._think)
            else:
                yield from self._read_body(self._say)
            was_reasoning = is_reasoning

    def _read_header(self) -> Reading[str | None]:
        """Take what stands before a message's text; None where the answer breaks off in it."""
        header = ""
        while len(header) <= MAX_HEADER:
            length, end = self._text.find(self._header_end)
            header += self._text.take(length)
            if end is not None:
                self._text.take(len(end))
                return header
            if self._text.is_ended:
                return None
            yield
        return header

    def _read_body(self, give: Callable[[str], None]) -> Reading[None]:
        """Give a message's text as it comes, and take its end."""
        while True:
            length, end = self._text.find(self._ends)
            give(self._text.take(length))
            if end is not None:
                self._text.take(0 if end == self._channels.start else len(end))
                return
            if self._text.is_ended:
                return
            yield
