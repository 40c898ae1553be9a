"""A model that says what a test tells it to, behind the real application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import httpx
from fastapi import FastAPI

from genai.config import CONTRACT_VERSION, EngineConfig, ModelConfig, Provenance
from genai.engine.rows import CacheStatus, RowStatus
from genai.llm.async_llm import AsyncLLM
from genai.llm.results import Choice, Chunk, Generation, Timings, Usage
from genai.metrics import EngineMetrics
from genai.progress import Progress
from genai.runtime.same_bits import Padding, SameBits
from genai.tokenizer.tokenizer import Tokenizer
from server.app import create_app
from server.loading import Room
from server.models import ModelPool
from server.settings import ModelSettings, Settings
from tests.tiny_package import BEGIN_ID, END_ID, TEMPLATE, VOCAB_SIZE, byte_tokenizer

TIMINGS = Timings(
    queue_seconds=0.25,
    time_to_first_token=0.5,
    prefill_seconds=0.25,
    decode_seconds=0.5,
    total_seconds=1.0,
    tokens_per_second=4.0,
    num_preemptions=0,
)


def choice(text: str = "", index: int = 0, finish_reason: str = "stop", **more: object) -> Choice:
    """One finished text."""
    fields: dict[str, object] = {
        "token_ids": list(text.encode()),
        "logprobs": None,
        "reasoning": "",
        "tool_calls": (),
        "score": None,
        **more,
    }
    return Choice(index=index, text=text, finish_reason=finish_reason, **fields)  # type: ignore[arg-type]


def generation(*choices: Choice, prompt_tokens: int = 7, cached_tokens: int = 0, **more: object) -> Generation:
    """A finished request."""
    count = sum(len(each.token_ids) for each in choices)
    usage = Usage(prompt_tokens=prompt_tokens, completion_tokens=count, cached_tokens=cached_tokens)
    fields: dict[str, object] = {"prompt_logprobs": None, "drafts": None, **more}
    return Generation(choices=list(choices), usage=usage, timings=TIMINGS, **fields)  # type: ignore[arg-type]


def chunk(text: str = "", **more: object) -> Chunk:
    """A piece of a text."""
    return Chunk(**{"text": text, "token_ids": list(text.encode()), **more})  # type: ignore[arg-type]


def said(*texts: str, finish_reason: str = "stop") -> list[Chunk]:
    """The pieces of one text, and its end."""
    whole = choice("".join(texts), finish_reason=finish_reason)
    return [*(chunk(text) for text in texts), chunk(finish_reason=finish_reason, result=generation(whole))]


@dataclass(kw_only=True)
class Submission:
    """What the server asked a model for."""

    prompt: object
    options: dict[str, object]
    tools: Sequence[Mapping[str, object]] | None
    tool_choice: object
    template_options: Mapping[str, object] | None
    continue_final_message: bool
    timeout: float | None
    is_cancelled: asyncio.Event = field(default_factory=asyncio.Event)


class FakeStream:
    """The pieces that a test has prepared; an event is waited for, an exception is raised."""

    def __init__(self, submission: Submission, script: Sequence[Chunk | asyncio.Event | Exception]) -> None:
        pieces = script if isinstance(script, Sequence) else ()  # others never end
        usages = (item.result.usage for item in pieces if isinstance(item, Chunk) and item.result)
        usage = next(usages, Usage(prompt_tokens=7, completion_tokens=0, cached_tokens=0))
        self.job = SimpleNamespace(
            first=SimpleNamespace(num_prompt=usage.prompt_tokens, num_cached=usage.cached_tokens)
        )
        self._submission = submission
        self._script = script

    async def __aiter__(self) -> AsyncIterator[Chunk]:
        try:
            for item in self._script:
                if isinstance(item, asyncio.Event):
                    await item.wait()
                elif isinstance(item, Exception):
                    raise item
                else:
                    yield item
        finally:
            self.cancel()

    def cancel(self) -> None:
        self._submission.is_cancelled.set()


class FakeModel:
    """An `AsyncLLM` whose answers are scripts, one for each prompt submitted; an exception refuses it."""

    def __init__(self, name: str = "fake") -> None:
        config = ModelConfig(
            contract_version=CONTRACT_VERSION,
            model_type="fake",
            num_layers=1,
            hidden_size=1,
            vocab_size=VOCAB_SIZE,
            num_heads=1,
            num_kv_heads=1,
            head_dim=1,
            max_position=64,
            cache_dtype="float32",
            eos_token_ids=(END_ID,),
            provenance=Provenance(source="", sha256="", precision="f32", builder="tests"),
        )
        tokenizer = Tokenizer(byte_tokenizer(), bos_token_id=BEGIN_ID, eos_token_ids=(END_ID,), chat_template=TEMPLATE)
        self.llm = SimpleNamespace(
            config=config,
            engine_config=EngineConfig(),
            max_seq_len=64,
            same_bits=SameBits(padding=Padding()),
            tokenizer=tokenizer,
            metrics=EngineMetrics(name),
            close=lambda: None,
        )
        cache = CacheStatus(
            rows=(RowStatus(valid=40, capacity=48, state_bytes=64),),
            num_idle=2,
            used_bytes=320,
            idle_bytes=400,
            total_bytes=4096,
            prefix_bytes=256,
            num_snapshots=3,
        )
        self.engine = SimpleNamespace(running=(), num_waiting=0, cache_status=cache)
        self.scripts: list[Sequence[Chunk | asyncio.Event | Exception] | Exception] = []
        self.submissions: list[Submission] = []
        self.is_closed = False

    def will_say(self, *script: Chunk | asyncio.Event | Exception) -> None:
        """The next prompt is answered so."""
        self.scripts.append(script)

    def will_refuse(self, error: Exception) -> None:
        """The next prompt is refused."""
        self.scripts.append(error)

    async def submit(
        self,
        prompt: object,
        config: None = None,
        *,
        tools: Sequence[Mapping[str, object]] | None = None,
        tool_choice: object = None,
        parallel_tool_calls: bool | None = None,
        template_options: Mapping[str, object] | None = None,
        continue_final_message: bool = False,
        timeout: float | None = None,
        **options: object,
    ) -> FakeStream:
        submission = Submission(
            prompt=prompt,
            options=options,
            tools=tools,
            tool_choice=tool_choice,
            template_options=template_options,
            continue_final_message=continue_final_message,
            timeout=timeout,
        )
        await asyncio.sleep(0)
        script = self.scripts.pop(0)
        if isinstance(script, Exception):
            raise script
        self.submissions.append(submission)
        return FakeStream(submission, script)

    def close(self) -> None:
        self.is_closed = True


def fake_pool(settings: Settings, models: Mapping[str, FakeModel]) -> ModelPool:
    """Models by name, ready at once."""

    def load(name: str, model: ModelSettings, settings: Settings, progress: Progress, room: Room) -> AsyncLLM:
        return cast(AsyncLLM, models[name])

    return ModelPool(settings, load)


@asynccontextmanager
async def serving(app: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an application that has begun and loaded its models."""
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http,
    ):
        for model in app.state.server.models.models:
            await model.changed.wait()
        yield http


def app_with(model: FakeModel, **settings: object) -> FastAPI:
    """An application that serves one fake model."""
    chosen = Settings.model_validate({"models": ["fake"], **settings})
    return create_app(chosen, fake_pool(chosen, {"fake": model}))
