"""Stop strings: end a text before the first of them, without showing any part of it."""

from __future__ import annotations

from collections.abc import Sequence


class StopStrings:
    """Watches streamed text for stop strings and holds back only what may be the beginning of one.

    The stop string that is *complete* first wins, and of those that end together the longest; so the result does not
    depend on how the text is cut into chunks. Each stop string is followed by a Knuth-Morris-Pratt automaton: a
    character costs O(number of stops) amortised, however repetitive the text.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._automata = [_Automaton(stop) for stop in dict.fromkeys(stops) if stop]
        self._held = ""
        self._matched: str | None = None

    @property
    def matched(self) -> str | None:
        """The stop string that ended the text, or None."""
        return self._matched

    def push(self, text: str) -> tuple[str, bool]:
        """Take new text; return the text that is now safe to show, and whether a stop string has ended it."""
        if self._matched is not None or not self._automata:
            return ("" if self._matched is not None else text), self._matched is not None
        whole = self._held + text
        for end, character in enumerate(text, start=len(self._held) + 1):
            complete = [automaton.stop for automaton in self._automata if automaton.step(character)]
            if complete:
                self._matched = max(complete, key=len)
                self._held = ""
                return whole[: end - len(self._matched)], True
        safe = len(whole) - max(automaton.length for automaton in self._automata)
        self._held = whole[safe:]
        return whole[:safe], False

    def finish(self) -> str:
        """The text still held back: no more is coming, so it was not a stop string. Empty after a stop."""
        held, self._held = self._held, ""
        return held


class _Automaton:
    """Knows the longest beginning of `stop` that the text so far ends with."""

    __slots__ = ("_fallback", "length", "stop")

    def __init__(self, stop: str) -> None:
        self.stop = stop
        self.length = 0
        self._fallback = [0] * len(stop)
        for index in range(1, len(stop)):
            length = self._fallback[index - 1]
            while length and stop[length] != stop[index]:
                length = self._fallback[length - 1]
            self._fallback[index] = length + (stop[length] == stop[index])

    def step(self, character: str) -> bool:
        """Take one character; True when the text now ends with the whole stop string."""
        while self.length and self.stop[self.length] != character:
            self.length = self._fallback[self.length - 1]
        if self.stop[self.length] == character:
            self.length += 1
        return self.length == len(self.stop)
