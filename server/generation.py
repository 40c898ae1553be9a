"""From a validated request to running texts, and from running texts to pieces and results."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from genai.errors import CapacityError, ConfigError, QueueFullError, TokenizerError
from genai.requests.chat import ChatArguments
from genai.requests.generation import field_of
from server.context import request_info
from server.errors import ApiError, api_error
from server.lifecycle import draining
from server.state import ServerState

if TYPE_CHECKING:
    from genai.engine.streams import Stream
    from genai.llm.prepare import Prompt
    from genai.llm.results import Chunk, Generation
    from server.models import ServedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a request asks a model for.

    param: the field that holds the prompt, for errors; chat: what goes with messages; renamed: what this API calls
    fields that are chat completions'.
    """

    prompts: Sequence[Prompt]
    options: Mapping[str, object]
    param: str
    chat: ChatArguments = field(default_factory=ChatArguments)
    renamed: Mapping[str, str] = field(default_factory=dict)

    @property
    def num_choices(self) -> int:
        """How many texts each prompt gets."""
        return max(int(str(self.options.get("n", 1))), 1)


def _param(error: Exception, work: Work) -> str | None:
    """The field that an error of generation is about: its message begins with an option, or is about the prompt."""
    if isinstance(error, CapacityError):
        return work.param
    param = field_of(error)
    if param is None:
        return work.param if re.match(r"the |token ", str(error)) else None
    return work.renamed.get(param, param)


_BLAMED = (ConfigError, TokenizerError)
"""What a request is to blame for, whether it shows at once or while its texts are written."""


def _blamed(error: Exception, work: Work) -> ApiError:
    return api_error(error, param=_param(error, work))


class Running:
    """The texts of one request, one stream for each prompt. To be closed by `cancel`, which ends what still runs."""

    def __init__(self, streams: Sequence[Stream[Chunk]], work: Work) -> None:
        self._streams = streams
        self._work = work
        self._is_called_off = False

    @property
    def prompt_tokens(self) -> tuple[int, int]:
        """Tokens of all prompts, and how many of them were in the prefix cache: known once there is a first piece."""
        firsts = [stream.job.first for stream in self._streams]
        return sum(first.num_prompt for first in firsts), sum(first.num_cached for first in firsts)

    def call_off(self) -> None:
        """End them because the client says so: what they have said so far is their result."""
        self._is_called_off = True
        self.cancel()

    def cancel(self) -> None:
        """End them; their rows are free before the next step runs."""
        for stream in self._streams:
            stream.cancel()

    async def results(self) -> list[Generation]:
        """All of them, whole, in the order of the prompts. Raises: ApiError, GenAIError."""
        results: dict[int, Generation] = {}
        async with aclosing(self.chunks()) as pieces:
            async for number, chunk in pieces:
                if chunk.result is not None:
                    results[number] = chunk.result
        return [results[number] for number in range(len(self._streams))]

    async def chunks(self) -> AsyncGenerator[tuple[int, Chunk], None]:
        """(prompt, piece) as they come; the last of each prompt has its result. Raises: ApiError, GenAIError."""
        try:
            async with aclosing(_merged(self._streams)) as pieces:
                async for number, chunk in pieces:
                    if chunk.finish_reason == "cancelled" and not self._is_called_off:
                        raise draining()
                    if chunk.result is not None:
                        if not self._is_called_off:
                            check_result(chunk.result)
                        _count(chunk.result)
                    yield number, chunk
        except _BLAMED as error:
            raise _blamed(error, self._work) from None
        finally:
            self.cancel()


async def start(model: ServedModel, work: Work, state: ServerState) -> Running:
    """Queue a request's prompts. Raises: ApiError; nothing is queued then."""
    num_texts = len(work.prompts) * work.num_choices
    if num_texts > state.settings.max_choices:
        message = f"{num_texts} texts are asked for (prompts times n); at most {state.settings.max_choices} are made"
        raise ApiError(400, message, code="invalid_value", param="n")
    streams: list[Stream[Chunk]] = []
    timeout = max(state.settings.request_timeout - request_info().seconds, 0.0)
    adapter = model.asked_adapter
    options = work.options if adapter is None else {"adapter": adapter, **work.options}
    running = Running(streams, work)
    try:
        for prompt in work.prompts:
            stream = await model.llm.submit(prompt, None, timeout=timeout, **work.chat, **options)
            streams.append(stream)
    except BaseException as error:
        running.cancel()
        if isinstance(error, QueueFullError) and state.lifecycle.is_draining:
            raise draining() from None
        if isinstance(error, _BLAMED):
            raise _blamed(error, work) from None
        raise
    return running


def check_result(result: Generation) -> None:
    """Refuse to pass on what did not come to its own end and has nothing in it. Raises: ApiError."""
    reasons = {choice.finish_reason for choice in result.choices}
    if "cancelled" in reasons:
        raise draining()
    if reasons == {"timeout"} and not any(choice.token_ids for choice in result.choices):
        message = "the request had no turn before its deadline: too many are waiting"
        raise ApiError(503, message, code="deadline_exceeded")


def _count(result: Generation) -> None:
    """Tokens for the log."""
    info = request_info()
    info.prompt_tokens = (info.prompt_tokens or 0) + result.usage.prompt_tokens
    info.completion_tokens = (info.completion_tokens or 0) + result.usage.completion_tokens


async def _merged(streams: Sequence[Stream[Chunk]]) -> AsyncGenerator[tuple[int, Chunk], None]:
    """(number, piece) of several streams as they come."""
    if len(streams) == 1:
        async for item in streams[0]:
            yield 0, item
        return
    iterators = [aiter(stream) for stream in streams]
    awaited = {asyncio.ensure_future(anext(each)): number for number, each in enumerate(iterators)}
    try:
        while awaited:
            arrived, _ = await asyncio.wait(awaited, return_when=asyncio.FIRST_COMPLETED)
            for task in sorted(arrived, key=awaited.__getitem__):
                number = awaited.pop(task)
                try:
                    chunk = task.result()
                except StopAsyncIteration:
                    continue
                awaited[asyncio.ensure_future(anext(iterators[number]))] = number
                yield number, chunk
    finally:
        for task in awaited:
            task.cancel()
        await asyncio.gather(*awaited, return_exceptions=True)
