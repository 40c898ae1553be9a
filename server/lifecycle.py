"""Whether the server takes requests, and how many it is answering: what a graceful end needs to know."""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from starlette.types import Scope

from server.errors import ApiError

_log = logging.getLogger(__name__)

ALWAYS_ANSWERED = ("/health", "/ready", "/metrics")
"""What is asked while the server drains or is full, and keeps nobody waiting."""


def hangups() -> Sequence[signal.Signals]:
    """SIGHUP, which comes when a terminal goes; none where the process was begun to ignore it (nohup)."""
    hangup = getattr(signal, "SIGHUP", None)
    return () if hangup is None or signal.getsignal(hangup) is signal.SIG_IGN else (hangup,)


class Lifecycle:
    """Counts what is being answered, and refuses what is new once the server is to stop.

    count_connections: how many are open, as far as the process knows.
    """

    def __init__(self, drain_timeout: float) -> None:
        self.count_connections: Callable[[], int] = lambda: 0
        self.num_active = 0
        self.is_draining = False
        self._drain_timeout = drain_timeout
        self._deadline = 0.0

    def drain(self) -> None:
        """Take no new requests from now on; those that are being answered have `drain_timeout` seconds."""
        if not self.is_draining:
            self.is_draining = True
            self._deadline = time.monotonic() + self._drain_timeout
            _log.info("draining: %d requests have %g s to end", self.num_active, self._drain_timeout)

    @contextmanager
    def counted(self, scope: Scope) -> Iterator[None]:
        """A gate that counts requests. Raises: ApiError for new ones while the server drains."""
        if scope["path"] in ALWAYS_ANSWERED:
            yield
            return
        if self.is_draining:
            raise draining()
        self.num_active += 1
        try:
            yield
        finally:
            self.num_active -= 1

    @property
    def is_overdue(self) -> bool:
        """Whether requests are being answered longer than draining may take."""
        return self.is_draining and self.num_active > 0 and time.monotonic() >= self._deadline

    @property
    def is_over(self) -> bool:
        """Whether draining has left nothing to be answered."""
        return self.is_draining and self.num_active == 0


def draining() -> ApiError:
    """The error for whoever comes while the server drains."""
    message = "the server is shutting down; send this to another one, or again in a moment"
    return ApiError(503, message, code="shutting_down", closes=True)
