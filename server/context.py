"""What is known of the request that is being served: for the log, metrics and traces."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

_GIVEN_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")


@dataclass(slots=True, kw_only=True)
class RequestInfo:
    """One HTTP request; filled in on its way.

    id: told to the client as X-Request-ID; adapter: whose name it gave as its model's; key: which API key it came
    with, by number; error: the error's code; status: of the answer, once it begins; at_end: to be called when it
    has been answered.
    """

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    started: float = field(default_factory=time.perf_counter)
    key: int | None = None
    model: str | None = None
    adapter: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    error: str | None = None
    status: int | None = None
    at_end: list[Callable[[], None]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """How long it has taken so far."""
        return time.perf_counter() - self.started


_current: ContextVar[RequestInfo | None] = ContextVar("request", default=None)


def current_request() -> RequestInfo | None:
    """The request that is being served here, if any."""
    return _current.get()


def request_info() -> RequestInfo:
    """The request that is being served here; outside of one, something to write into all the same."""
    return _current.get() or RequestInfo()


def is_request_id(text: str) -> bool:
    """Whether a client's own id of a request is a decent one."""
    return _GIVEN_ID.fullmatch(text) is not None


@contextmanager
def request_context(given_id: str) -> Iterator[RequestInfo]:
    """A new current request, under the id that the client gave if it is a decent one."""
    info = RequestInfo(id=given_id) if is_request_id(given_id) else RequestInfo()
    token = _current.set(info)
    try:
        yield info
    finally:
        _current.reset(token)
        for call in info.at_end:
            call()
