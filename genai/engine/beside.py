"""A thread for what may be done while the graph runs: `run` leaves the interpreter to others.

    engine's thread   choose n │ run n + 1 ····················· │ wait │ choose n + 1
    this one                   └ tokens of n told, masks for n + 1 ┘

Never are both at work on a text: what is begun here has ended before the engine's thread chooses, ends or frees.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue


class Beside:
    """One piece of work at a time, on a thread that begins with the first one."""

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._ends: SimpleQueue[BaseException | None] = SimpleQueue()
        self._is_busy = False
        self._thread: threading.Thread | None = None

    @property
    def is_here(self) -> bool:
        """Whether this is called on the thread."""
        return threading.current_thread() is self._thread

    def begin(self, work: Callable[[], None]) -> None:
        """Have something done; `wait` comes before the next."""
        assert not self._is_busy, "what was begun is waited for"
        if self._thread is None:
            thread = threading.Thread(target=_run, args=(self._work, self._ends), name="genai-beside", daemon=True)
            try:
                thread.start()
            except RuntimeError:  # no more threads: then before the run, and not beside it
                work()
                return
            self._thread = thread
        self._is_busy = True
        self._work.put(work)

    def wait(self) -> None:
        """Wait until it is done. Raises: what it raised."""
        if self._is_busy:
            error = self._ends.get()
            self._is_busy = False
            if error is not None:
                raise error

    def close(self) -> None:
        """End the thread."""
        if self._thread is not None:
            self._work.put(None)
            self._thread.join()


def _run(work: SimpleQueue[Callable[[], None] | None], ends: SimpleQueue[BaseException | None]) -> None:
    """Not a method: the thread keeps nobody in memory."""
    while (function := work.get()) is not None:
        error: BaseException | None = None
        try:
            function()
        except BaseException as caught:  # raised where it is waited for
            error = caught
        del function
        ends.put(error)
        del error
