"""A text that arrives in pieces, for readers that are written as if it were whole.

A reader is a generator: it looks ahead, takes what it has understood, and pauses (`yield`) where it needs more text. So
what it does depends on the text alone, never on how it was cut, and it holds back no more than it looks ahead at.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Sequence
from typing import TypeAlias, TypeVar

Result = TypeVar("Result")
Reading: TypeAlias = Generator[None, None, Result]
"""A reader: pauses where it needs more text, and returns what it found."""

_JSON_SPACE = re.compile(r"[ \t\n\r]*")


class Markers:
    """Strings to look for in a text, some of them only at the beginning of a line; none is part of another."""

    def __init__(self, anywhere: Sequence[str], at_line_start: Sequence[str] = ()) -> None:
        whole = [re.escape(marker) for marker in anywhere]
        whole += [f"(?<=\n){re.escape(marker)}" for marker in at_line_start]
        begun = [_beginnings(marker) for marker in anywhere if len(marker) > 1]
        begun += [f"(?<=\n){_beginnings(marker)}" for marker in at_line_start if len(marker) > 1]
        self._whole = re.compile("|".join(whole) or r"(?!)")
        self._begun = re.compile(rf"(?:{'|'.join(begun)})\Z" if begun else r"(?!)")
        self._longest = max(map(len, [*anywhere, *at_line_start]), default=0)

    def find(self, text: str, start: int) -> tuple[int, str | None]:
        """Where the first marker begins, and which it is; without one, where one may be beginning, and None."""
        if found := self._whole.search(text, start):
            return found.start(), found[0]
        begun = self._begun.search(text, max(start, len(text) - self._longest + 1))
        return (begun.start() if begun else len(text)), None


def _beginnings(marker: str) -> str:
    """A pattern for the marker's first character and as many of the next as there are, but not the last."""
    pattern = ""
    for character in reversed(marker[1:-1]):
        pattern = f"(?:{re.escape(character)}{pattern})?"
    return re.escape(marker[0]) + pattern


class PiecewiseText:
    """The text so far: what was taken, and what is still unread.

    ```
    … taken before the mark │ taken since the mark │ unread …
    ```
    """

    def __init__(self) -> None:
        self._text = "\n"  # one character before the unread ones stays, so that markers know where a line begins
        self._pos = 1
        self._taken: list[str] = []
        self._copy: list[str] | None = None
        self.is_ended = False

    def feed(self, piece: str) -> None:
        """Add text at the end."""
        self._text = self._text[self._pos - 1 :] + piece
        self._pos = 1

    def end(self) -> None:
        """Say that no more text comes."""
        self.is_ended = True

    def take(self, count: int) -> str:
        """Take so many unread characters, which must be there."""
        taken = self._text[self._pos : self._pos + count]
        self._pos += count
        self._taken.append(taken)
        if self._copy is not None:
            self._copy.append(taken)
        return taken

    def mark(self) -> None:
        """Set the mark here."""
        self._taken.clear()

    def since_mark(self) -> str:
        """What was taken since the mark."""
        return "".join(self._taken)

    def copy_to(self, copy: list[str] | None) -> None:
        """Put what is taken from now on there, too; None: no longer."""
        self._copy = copy

    def find(self, markers: Markers) -> tuple[int, str | None]:
        """How many unread characters come before a marker, and which; None: before what may become one."""
        end, marker = markers.find(self._text, self._pos)
        return (len(self._text) if marker is None and self.is_ended else end) - self._pos, marker

    def peek(self) -> Reading[str]:
        """The next character; "" at the end of the text."""
        while self._pos == len(self._text):
            if self.is_ended:
                return ""
            yield
        return self._text[self._pos]

    def take_run(self, run: re.Pattern[str]) -> Reading[None]:
        """Take characters for as long as they match; `run` is a character class repeated."""
        while True:
            if found := run.match(self._text, self._pos):
                self.take(found.end() - self._pos)
            if self._pos < len(self._text) or self.is_ended:
                return
            yield

    def skip_space(self) -> Reading[str]:
        """Take JSON's white space, and show the next character; "" at the end of the text."""
        yield from self.take_run(_JSON_SPACE)
        return (yield from self.peek())

    def starting(self, words: Sequence[str]) -> Reading[str | None]:
        """Which of the words the unread text begins with; it is not taken."""
        longest = max(map(len, words))
        while True:
            unread = self._text[self._pos : self._pos + longest]
            for word in words:
                if unread.startswith(word):
                    return word
            if self.is_ended or not any(word.startswith(unread) for word in words):
                return None
            yield

    def took(self, word: str) -> Reading[bool]:
        """Take a word that may be next; whether it was there. An empty one always is."""
        is_there = not word or (yield from self.starting((word,))) is not None
        self.take(len(word) if is_there else 0)
        return is_there
