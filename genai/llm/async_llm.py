"""A loaded model for asyncio: any number of coroutines generate at once, and none waits for a run of the graph."""

from __future__ import annotations

import asyncio
import functools
from collections import abc
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from genai.engine.async_engine import AsyncEngine, Stream
from genai.errors import QueueFullError
from genai.llm.llm import LLM
from genai.llm.prepare import Prompt
from genai.llm.results import Chunk
from genai.options.generation_config import GenerationConfig

_PREPARING_THREADS = 2
"""Threads that encode prompts and apply templates beside the event loop."""


class AsyncLLM:
    """Takes a model's engine over: `LLM.generate` and its like are refused until this is closed."""

    def __init__(self, llm: LLM) -> None:
        self.llm = llm
        self._is_closed = False
        self._preparing = ThreadPoolExecutor(_PREPARING_THREADS, thread_name_prefix="genai-prepare")
        self.engine = AsyncEngine(llm.lend())

    async def submit(
        self,
        prompt: Prompt,
        config: GenerationConfig | None = None,
        *,
        tools: abc.Sequence[Mapping[str, object]] | None = None,
        tool_choice: object = None,
        parallel_tool_calls: bool | None = None,
        template_options: Mapping[str, object] | None = None,
        draft: LLM | None = None,
        priority: int = 0,
        timeout: float | None = None,
        **options: object,
    ) -> Stream[Chunk]:
        """Queue a prompt; returns its pieces as they come. Arguments are those of `LLM.generate`.

        Leaving the stream early, or its `cancel`, ends the request and frees its rows. Raises: as `LLM.generate`, and
        QueueFullError, after `close` too; what fails later is raised by the stream.
        """
        if self._is_closed:
            raise QueueFullError("this AsyncLLM is closed and takes no new requests; make another one")
        prepare = functools.partial(
            self.llm.prepare,
            prompt,
            config,
            tools=tools,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
            template_options=template_options,
            draft=draft,
            priority=priority,
            timeout=timeout,
            options=options,
        )
        prepared = await asyncio.get_running_loop().run_in_executor(self._preparing, prepare)
        return self.engine.submit(prepared.request, prepared.writer)

    async def drain(self, timeout: float | None = None) -> bool:
        """Refuse new requests and wait for the accepted ones; True if all ended within `timeout` seconds."""
        return await self.engine.drain(timeout)

    def close(self) -> None:
        """End every request and give the engine back. Closing twice does nothing."""
        if self._is_closed:  # the model may be lent again
            return
        self._is_closed = True
        self.engine.close()
        self._preparing.shutdown(wait=False)  # those under way find the engine closed
        self.llm.take_back()
