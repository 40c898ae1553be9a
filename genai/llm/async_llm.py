"""A loaded model for asyncio: any number of coroutines generate at once, and none waits for a run of the graph.

    submit ──► encode: prompts, templates, grammars that are known ──────────────► loop
                  └► compile: one grammar after another, so that only others wait ─┘

Who is in either counts among those that wait (`EngineConfig.max_waiting`), and who gives up leaves its place.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import abc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TypeVar

from genai.decoding.processors import FloatArray
from genai.engine.engine import Engine
from genai.engine.request import Request
from genai.engine.streams import Stream, Streams
from genai.errors import QueueFullError
from genai.llm.adapters import AdapterChoice
from genai.llm.embedding import Texts
from genai.llm.llm import LLM
from genai.llm.prepare import Preparation, Prepared, Prompt
from genai.llm.reading import Asked, Outcome, Reading, ReadRequest
from genai.llm.results import Chunk
from genai.llm.together import QUEUED_PER_ROW
from genai.options.generation_config import GenerationConfig

Result = TypeVar("Result")
_ENCODING_THREADS = 2
"""Threads that encode prompts and apply templates beside the event loop."""
_MAX_COMPILING = 16
"""Requests that may wait for grammars to be compiled: each of them may take seconds."""


class AsyncLLM:
    """A model's requests from coroutines; they run in one batch with whatever else it is asked for meanwhile."""

    def __init__(self, llm: LLM) -> None:
        self.llm = llm
        self._streams = Streams(llm.loop)
        self._encoding = ThreadPoolExecutor(_ENCODING_THREADS, thread_name_prefix="genai-encode")
        self._compiling = ThreadPoolExecutor(1, thread_name_prefix="genai-compile")
        self._num_compiling = 0

    @property
    def engine(self) -> Engine:
        """The model's engine, to look at. Raises: ConfigError once the model is closed."""
        return self.llm.engine

    async def submit(self, prompt: Prompt, config: GenerationConfig | None = None, **options: object) -> Stream[Chunk]:
        """Queue a prompt; returns its pieces as they come. Arguments are those of `LLM.generate`.

        Leaving the stream early, or its `cancel`, ends the request and frees its rows. Raises: as `LLM.generate`, and
        QueueFullError when too many wait, and after `close`; what fails later is raised by the stream.
        """
        if self._streams.is_closed:
            raise QueueFullError("this AsyncLLM is closed and takes no new requests; make another one")
        started = time.perf_counter()
        with self.engine.preparing():
            begin = functools.partial(self.llm.begin, prompt, config, **options)  # type: ignore[arg-type]  # checked there
            prepared = await self._prepared(begin)
        request = _without(prepared.request, time.perf_counter() - started)
        return self._streams.submit(request, prepared.writer, keeps=(self, options.get("draft")))

    async def embed(self, texts: Texts, *, adapter: AdapterChoice | None = None, **options: object) -> FloatArray:
        """`LLM.embed`: [N, H] float32. Raises: as that."""
        ask = functools.partial(self.llm.embedder.ask, texts, **options)  # type: ignore[arg-type]  # checked there
        return (await self.read(ask, adapter)).values

    async def score(
        self, query: str, documents: abc.Sequence[str], *, adapter: AdapterChoice | None = None, **options: object
    ) -> FloatArray:
        """`LLM.score`: [N] float32. Raises: as that."""
        ask = functools.partial(self.llm.scorer.ask, query, documents, **options)  # type: ignore[arg-type]  # checked there
        return (await self.read(ask, adapter)).values

    async def read(self, ask: Callable[[], Asked], adapter: AdapterChoice | None = None) -> Outcome:
        """Have prompts read that `ask`, called on another thread, prepares; no more are queued than keep all rows busy.

        adapter: as `LLM.score` has it. Who gives up ends those that are left. Raises: as `LLM.score`; QueueFullError
        after `close`.
        """
        if self._streams.is_closed:
            raise QueueFullError("this AsyncLLM is closed and takes no new requests; make another one")
        started = time.perf_counter()
        loaded = self.llm.adapters.get(adapter)
        with self.engine.preparing():
            asked = await self._run(self._encoding, lambda: self._checked(ask().with_adapter(loaded)))
        readings = await self._readings(asked.requests, started)
        return await self._run(self._encoding, lambda: asked.outcome(readings))

    def _checked(self, asked: Asked) -> Asked:
        """Prompts that the engine will take. Raises: ConfigError, CapacityError."""
        for each in asked.requests:
            self.llm.loop.check(each.request)
        return asked

    async def _readings(self, requests: abc.Sequence[ReadRequest], started: float) -> list[Reading]:
        """What became of each, in their order; their time runs since `started`."""
        most = QUEUED_PER_ROW * self.llm.engine_config.max_batch
        streams: list[Stream[Reading]] = []
        ends: set[asyncio.Future[None]] = set()
        try:
            while ends or len(streams) < len(requests):
                while len(ends) < most and len(streams) < len(requests):
                    each = requests[len(streams)]
                    try:
                        request = _without(each.request, time.perf_counter() - started)
                        stream = self._streams.submit(request, each.writer, keeps=self)
                    except QueueFullError:
                        if not ends:
                            raise
                        break
                    streams.append(stream)
                    ends.add(asyncio.ensure_future(_end(stream)))
                done, ends = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                for end in done:
                    end.result()
        finally:
            for end in ends:
                end.cancel()
            await asyncio.gather(*ends, return_exceptions=True)
        return [each.writer.result(stream.job) for each, stream in zip(requests, streams, strict=True)]

    async def drain(self, timeout: float | None = None) -> bool:
        """Refuse new requests here and wait for the accepted ones; True if all ended within `timeout` seconds."""
        return await self._streams.drain(timeout)

    def close(self) -> None:
        """End the requests that were made here; the model stays loaded. Closing twice does nothing."""
        self._streams.close()
        for threads in (self._encoding, self._compiling):
            threads.shutdown(wait=False)  # those under way find this closed

    async def _prepared(self, begin: Callable[[], Preparation]) -> Prepared:
        """A request prepared beside the event loop."""
        found = await self._run(self._encoding, lambda: _finished_unless_slow(begin()))
        if isinstance(found, Prepared):
            return found
        if self._num_compiling >= _MAX_COMPILING:
            raise QueueFullError(f"{self._num_compiling} requests wait for grammars to be compiled; try again later")
        self._num_compiling += 1
        try:
            return await self._run(self._compiling, found.finish)
        finally:
            self._num_compiling -= 1

    @staticmethod
    async def _run(threads: ThreadPoolExecutor, function: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(threads, function)


async def _end(stream: Stream[Reading]) -> None:
    """Wait for the end of a prompt that is read. Raises: what it failed by."""
    async for _ in stream:
        pass


def _finished_unless_slow(begun: Preparation) -> Prepared | Preparation:
    return begun if begun.needs_compiling else begun.finish()


def _without(request: Request, seconds: float) -> Request:
    """A request whose time has been running so long."""
    return request if request.timeout is None else replace(request, timeout=max(request.timeout - seconds, 0.0))
