"""What somebody types on a terminal, a message at a time: edited, remembered, and pasted whole."""

from __future__ import annotations

import sys
from collections.abc import Iterator

_BOLD, _PLAIN = "\x01\x1b[1m\x02", "\x01\x1b[0m\x02"
"""Escapes between marks, by which readline knows that they take no room on the line."""


def typed(prompt: str) -> Iterator[str]:
    """Messages until Ctrl-D: lines of which all but the last end in a backslash, or what was pasted at once.

    Ctrl-C drops what stands there.
    """
    shown = _prepared(prompt)
    while True:
        try:
            yield _message(shown, "." * len(prompt.rstrip()) + " ")
        except EOFError:
            print(file=sys.stderr)
            return
        except KeyboardInterrupt:
            print("\nCtrl-D leaves", file=sys.stderr)


def _message(first: str, further: str) -> str:
    lines = [_line(first)]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        lines.append(_line(further))
    return "\n".join(lines)


def _line(prompt: str) -> str:
    """A line; the prompt is readline's own, which draws it anew with the line, and never part of redirected answers."""
    if sys.stdout.isatty():
        return input(prompt)
    print(prompt, end="", file=sys.stderr, flush=True)
    return input()


def _prepared(prompt: str) -> str:
    """Give input() line editing and history, if there is such a thing here; returns the prompt to ask with."""
    try:
        import readline
    except ImportError:  # Windows has editing of its own
        return prompt
    from rich.console import Console

    screen = Console()
    if not sys.stdout.isatty() or not screen.is_terminal or screen.is_dumb_terminal:
        return prompt
    readline.parse_and_bind("set enable-bracketed-paste on")  # Python before 3.13 turns it off: a line, a message
    return f"{_BOLD}{prompt.rstrip()}{_PLAIN} "
