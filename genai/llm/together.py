"""Many requests of one caller, a bounded number of them in the engine at a time.

Planning a step looks at all who wait: ten thousand requests that are queued at once would have each step look at them.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Generic, Protocol, TypeVar

from genai.engine.loop import EngineLoop
from genai.engine.request import Request
from genai.engine.sequence import Job, Sink
from genai.engine.streams import Follower
from genai.errors import QueueFullError

Result = TypeVar("Result")
Result_co = TypeVar("Result_co", covariant=True)
QUEUED_PER_ROW = 2
"""Requests in the engine for each of its rows: while some run, as many wait, so that no row is ever idle."""


class Writer(Sink, Protocol[Result_co]):
    """A sink that says what has become of its job."""

    def result(self, job: Job) -> Result_co:
        """What a job that is over has come to. Raises: its error."""
        ...


class Ready(Protocol[Result_co]):
    """A request ready for an engine, and who is to follow it."""

    @property
    def request(self) -> Request:
        """What is asked of the engine."""
        ...

    @property
    def writer(self) -> Writer[Result_co]:
        """Who follows it."""
        ...


class Together(Generic[Result]):
    """Runs prepared requests in their order. max_batch: the engine's rows."""

    def __init__(self, loop: EngineLoop, prepared: Sequence[Ready[Result]], max_batch: int) -> None:
        self._loop = loop
        self._prepared = prepared
        self._most = QUEUED_PER_ROW * max_batch
        self._started = time.perf_counter()
        self._jobs: list[Job] = []
        self._num_over = 0  # counted on the loop's thread alone
        self._one_more = threading.Event()

    def results(self) -> list[Result]:
        """What became of each; what cannot be done is refused before anything runs. Raises: as `LLM.generate`."""
        for each in self._prepared:
            self._loop.check(each.request)
        try:
            while True:
                self._one_more.clear()  # before the look: who ends behind it wakes
                if self._num_over == len(self._prepared):
                    break
                self._fill()
                self._loop.wait(self._one_more)
            return [each.writer.result(job) for job, each in zip(self._jobs, self._prepared, strict=True)]
        finally:
            for job in self._jobs:
                self._loop.cancel(job)

    def _fill(self) -> None:
        """Submit as many as may be in the engine; others may have filled its queue meanwhile."""
        while len(self._jobs) < len(self._prepared) and len(self._jobs) - self._num_over < self._most:
            each = self._prepared[len(self._jobs)]
            try:
                job = self._loop.submit(self._timed(each.request), Follower(each.writer, self._ended))
            except QueueFullError:
                if len(self._jobs) == self._num_over:
                    raise
                return
            self._jobs.append(job)

    def _timed(self, request: Request) -> Request:
        """A request's time runs from when all were given."""
        if request.timeout is None:
            return request
        return replace(request, timeout=max(0.0, request.timeout - (time.perf_counter() - self._started)))

    def _ended(self) -> None:
        self._num_over += 1
        self._one_more.set()
