"""Prompts that are read and not continued: scores and embeddings.

texts ─► Scorer, Embedder ─► Asked: read requests ─► engine ─► readings ─► Asked.outcome ─► an array, and its usage
"""

from __future__ import annotations

from collections import abc
from collections.abc import Callable
from dataclasses import dataclass, replace

from genai.decoding.processors import FloatArray
from genai.engine.consumers import Consumer
from genai.engine.request import Request
from genai.engine.sequence import Job, TokenEvent
from genai.errors import CapacityError, ConfigError, DeadlineError, QueueFullError
from genai.options.generation_config import GenerationConfig
from genai.runtime.adapters import ScaledAdapter

NO_HEAD = "this model makes embeddings and has no head to write with: call embed(), or POST /v1/embeddings"
NO_EMBEDDINGS = "this model writes text and gives no embeddings: load an embedding model, such as Qwen3-Embedding"
"""Why a model does not do what it is asked for."""
NO_TEXT = GenerationConfig().updated(max_new_tokens=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the graph gave of one prompt, whose tokens these are; cached_tokens: those that were not run."""

    values: FloatArray
    prompt_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What all readings of a request come to, and how many tokens they took."""

    values: FloatArray
    prompt_tokens: int
    cached_tokens: int


class ReadingWriter:
    """The sink of a prompt that is read: there is nothing to tell before its end."""

    num_unread = 0

    def accept(self, event: TokenEvent) -> bool:
        """No event but the end comes."""
        return False

    def deliver(self, event: TokenEvent) -> None:
        """The result is asked of the job."""

    def take(self) -> list[Reading]:
        """No pieces."""
        return []

    def result(self, job: Job) -> Reading:
        """What a job that is over has read. Raises: its error, DeadlineError, QueueFullError if it was called off."""
        if job.error is not None:
            raise job.error
        first = job.first
        if first.finish_reason == "timeout":
            raise DeadlineError("the request had no turn before its deadline (timeout): too many are waiting")
        if first.logits is None:
            raise QueueFullError("the request was called off: the engine is shutting down")
        return Reading(values=first.logits, prompt_tokens=first.num_prompt, cached_tokens=first.num_cached)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadRequest:
    """A request ready for an engine, and who is to follow it."""

    request: Request
    writer: ReadingWriter

    @classmethod
    def of(cls, tokens: abc.Sequence[int], reader: Consumer, priority: int, timeout: float | None) -> ReadRequest:
        """Have a reader, made for it alone, read a prompt. Raises: ConfigError."""
        request = Request(prompt=tokens, config=NO_TEXT, priority=priority, timeout=timeout, reader=reader)
        return cls(request=request, writer=ReadingWriter())


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Prompts to be read, and what becomes of their values, [N, …] in the order of the requests."""

    requests: abc.Sequence[ReadRequest]
    shaped: Callable[[abc.Sequence[FloatArray]], FloatArray]

    def with_adapter(self, adapter: ScaledAdapter | None) -> Asked:
        """The same of the model with an adapter."""
        changed = [replace(each, request=replace(each.request, adapter=adapter)) for each in self.requests]
        return replace(self, requests=changed)

    def outcome(self, readings: abc.Sequence[Reading]) -> Outcome:
        """What all readings come to."""
        return Outcome(
            values=self.shaped([each.values for each in readings]),
            prompt_tokens=sum(each.prompt_tokens for each in readings),
            cached_tokens=sum(each.cached_tokens for each in readings),
        )


def bounded(prompts: abc.Iterable[list[int]], most_tokens: int | None) -> abc.Iterator[list[int]]:
    """Prompts as they are made, as long as they have no more tokens together. Raises: CapacityError."""
    num_tokens = 0
    for prompt in prompts:
        num_tokens += len(prompt)
        if most_tokens is not None and num_tokens > most_tokens:
            raise CapacityError(f"all prompts together have more than {most_tokens:,} tokens; send several requests")
        yield prompt


def strings(name: str, value: object) -> list[str]:
    """A list of strings that is not empty. Raises: ConfigError."""
    if isinstance(value, str) or not isinstance(value, abc.Sequence) or not value:
        raise ConfigError(f"{name} is a list of strings, at least one")
    for index, each in enumerate(value):
        if not isinstance(each, str):
            raise ConfigError(f"{name}[{index}] is {type(each).__name__}, not a string")
    return list(value)
