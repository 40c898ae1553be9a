"""A loaded model for asyncio: any number of coroutines generate at once, and none waits for a run of the graph."""

from __future__ import annotations

import asyncio
import functools
from concurrent.futures import ThreadPoolExecutor

from genai.engine.engine import Engine
from genai.engine.streams import Stream, Streams
from genai.errors import QueueFullError
from genai.llm.llm import LLM
from genai.llm.prepare import Prompt
from genai.llm.results import Chunk
from genai.options.generation_config import GenerationConfig

_PREPARING_THREADS = 2
"""Threads that encode prompts and apply templates beside the event loop."""


class AsyncLLM:
    """A model's requests from coroutines; they run in one batch with whatever else it is asked for meanwhile."""

    def __init__(self, llm: LLM) -> None:
        self.llm = llm
        self._streams = Streams(llm.loop)
        self._preparing = ThreadPoolExecutor(_PREPARING_THREADS, thread_name_prefix="genai-prepare")

    @property
    def engine(self) -> Engine:
        """The model's engine, to look at. Raises: ConfigError once the model is closed."""
        return self.llm.engine

    async def submit(self, prompt: Prompt, config: GenerationConfig | None = None, **options: object) -> Stream[Chunk]:
        """Queue a prompt; returns its pieces as they come. Arguments are those of `LLM.generate`.

        Leaving the stream early, or its `cancel`, ends the request and frees its rows. Raises: as `LLM.generate`, and
        QueueFullError after `close`; what fails later is raised by the stream.
        """
        if self._streams.is_closed:
            raise QueueFullError("this AsyncLLM is closed and takes no new requests; make another one")
        prepare = functools.partial(self.llm.prepare, prompt, config, **options)  # type: ignore[arg-type]  # checked there
        prepared = await asyncio.get_running_loop().run_in_executor(self._preparing, prepare)
        return self._streams.submit(prepared.request, prepared.writer, keeps=(self, options.get("draft")))

    async def drain(self, timeout: float | None = None) -> bool:
        """Refuse new requests here and wait for the accepted ones; True if all ended within `timeout` seconds."""
        return await self._streams.drain(timeout)

    def close(self) -> None:
        """End the requests that were made here; the model stays loaded. Closing twice does nothing."""
        self._streams.close()
        self._preparing.shutdown(wait=False)  # those under way find this closed
