"""What is typed on a terminal: a program of its own behind a pseudo-terminal, which readline draws on."""

from __future__ import annotations

import ast
import os
import re
import select
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

pytest.importorskip("pty", reason="no pseudo-terminals here")
pytest.importorskip("readline", reason="no line editing here")

PROGRAM = "from genai.cli.typed import typed\nfor message in typed('>>> '): print('got', ascii(message))\nprint('left')"
ERASE_LINE, UP, INTERRUPT, END = "\x15", "\x1b[A", "\x03", "\x04"


class Terminal:
    """A program, keys for it, and what it writes."""

    def __init__(self, program: str) -> None:
        self._end, its = os.openpty()
        environment = {**os.environ, "TERM": "xterm", "INPUTRC": os.devnull}
        begin = f"import os\nos.login_tty({its})\n{program}"
        self.process = subprocess.Popen([sys.executable, "-c", begin], env=environment, pass_fds=[its])
        os.close(its)

    def press(self, keys: str, expected: str) -> str:
        """Press keys once the program waits for them, and return what appears once the pattern is in it.

        Before it waits, an interrupt is seen with the next key only, and an end by the terminal itself.
        """
        shown, until = "", time.monotonic() + 20
        while psutil.Process(self.process.pid).status() != psutil.STATUS_SLEEPING:
            assert time.monotonic() < until, "it does not wait"
            time.sleep(0.001)
        os.write(self._end, keys.encode())
        while not re.search(expected, shown):
            assert time.monotonic() < until, f"{expected!r} did not come: {shown!r}"
            if select.select([self._end], [], [], 0.1)[0]:
                shown += os.read(self._end, 4096).decode()
        return shown

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._end)


@pytest.fixture
def terminal() -> Iterator[Terminal]:
    terminal = Terminal(PROGRAM)
    terminal.press("", r">>>")
    yield terminal
    terminal.close()


def got(shown: str) -> str:
    found = re.search(r"got ('.*')", shown)
    assert found, shown
    return str(ast.literal_eval(found[1]))


def test_editing_keeps_the_prompt(terminal: Terminal) -> None:
    terminal.press("first\r", r"got 'first'[^>]*>>>")
    shown = terminal.press(UP, "first") + terminal.press(ERASE_LINE + "x", "x")
    assert "\r" not in shown, "the cursor went to the beginning of the line, where the prompt is"
    assert got(terminal.press("\r", r"got.*\n")) == "x"


def test_what_is_pasted_is_one_message(terminal: Terminal) -> None:
    shown = terminal.press("\x1b[200~one\ntwo\nthree\x1b[201~\r", r"got.*\n")
    assert got(shown) == "one\ntwo\nthree"


def test_a_backslash_continues_a_message(terminal: Terminal) -> None:
    terminal.press("one\\\r", r"\.\.\.")
    assert got(terminal.press("two\r", r"got.*\n")) == "one\ntwo"


def test_interrupt_drops_the_line_and_the_end_leaves(terminal: Terminal) -> None:
    terminal.press("one", "one")
    terminal.press(INTERRUPT, r"Ctrl-D leaves[^>]*>>>")
    assert got(terminal.press("two\r", r"got.*\n[^>]*>>>")) == "two"
    terminal.press(END, "left")
    assert terminal.process.wait(20) == 0
