"""A loaded model: prompts in, texts out.

`LLM` joins the three things a text needs: the tokenizer (strings), the engine (tokens) and the package they came from.
"""

from __future__ import annotations

import threading
from collections import abc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self, overload
from weakref import WeakSet

from genai.config import EngineConfig, ModelConfig, Precision
from genai.decoding.processors import FloatArray
from genai.engine.drafting.draft_model import DraftModel
from genai.engine.engine import Engine
from genai.engine.prefix_cache import PrefixCache
from genai.engine.scheduler import Limits
from genai.engine.sequence import Job
from genai.errors import CapacityError, ConfigError
from genai.llm.generator import Generator, Owner
from genai.llm.prepare import ChatOptions, Delivery, Prepared, Preparer, Prompt, are_tokens, as_list
from genai.llm.results import Chunk, Generation
from genai.llm.session_file import SessionFile
from genai.llm.writer import JobWriter
from genai.metrics import EngineMetrics
from genai.options.generation_config import GenerationConfig, replaced
from genai.progress import Progress, silent
from genai.runtime.load import load_runner
from genai.tokenizer.tokenizer import Tokenizer


def load(
    model: str | Path,
    *,
    precision: Precision = "auto",
    progress: Progress = silent,
    **engine_options: object,
) -> LLM:
    """Load a model by known name, package folder, Hugging Face folder, `.gguf` file or hub id.

    What is missing is fetched and built first, and kept. engine_options: the fields of `EngineConfig`.
    Raises: GenAIError's kinds.
    """
    from genai import models
    from genai.runtime.providers import choose_device

    config = replaced(EngineConfig(), **engine_options)
    path = models.package(str(model), precision=precision, device=choose_device(config.device), progress=progress)
    return LLM(path, config)


class LLM:
    """A model package, loaded. Use as a context manager, or call `close`.

    Methods may be called from several threads; they take turns. Raises: ContractError, CapacityError,
    RuntimeUnavailableError.
    """

    def __init__(self, path: Path, config: EngineConfig | None = None, *, name: str | None = None) -> None:
        """Load a package folder; name: how metrics call it, the folder's name by default."""
        self.path = Path(path)
        self.config = ModelConfig.read(self.path)
        self.engine_config = config or EngineConfig()
        self.metrics = EngineMetrics(name or self.path.name)
        loaded = load_runner(self.path, self.config, self.engine_config)
        self._runner = loaded.runner
        self.max_seq_len = loaded.max_seq_len
        self.tokenizer = Tokenizer.from_folder(
            self.path,
            bos_token_id=self.config.bos_token_id,
            eos_token_ids=self.config.eos_token_ids,
            pad_token_id=self.config.pad_token_id,
        )
        self._engine: Engine | None = self._new_engine(loaded.prefix_cache_bytes)
        self._preparer = Preparer(self.tokenizer, self.config.vocab_size, self.config.eos_token_ids)
        self.generation_config = GenerationConfig().updated(**self.config.generation)
        self._lock = threading.RLock()
        self._depth = 0  # how often the thread that has the lock has taken it
        self._is_lent = False
        self._drafting = DraftModel(self._runner, self._unless_busy)
        self._known_drafts: WeakSet[LLM] = WeakSet()  # models whose vocabulary was found to be the same

    def _new_engine(self, prefix_cache_bytes: int) -> Engine:
        limits = Limits(
            max_batch=self.engine_config.max_batch,
            max_seq_len=self.max_seq_len,
            prefill_chunk=self.engine_config.prefill_chunk,
            max_waiting=self.engine_config.max_waiting,
        )
        shape = self._runner.cache.shape
        model = repr(self.config.provenance).encode()
        prefixes = PrefixCache(model, shape.slot_bytes, shape.num_buffers, prefix_cache_bytes)
        return Engine(self._runner, limits, self.config.eos_token_ids, prefixes, self.metrics)

    @overload
    def generate(  # type: ignore[overload-overlap]  # a string is a sequence of strings too
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
    ) -> Generation: ...

    @overload
    def generate(
        self,
        prompt: abc.Sequence[Prompt],
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
    ) -> list[Generation]: ...

    def generate(
        self,
        prompt: Prompt | abc.Sequence[Prompt],
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
    ) -> Generation | list[Generation]:
        """Continue one prompt, or several in one batch: a string, token ids, chat messages, or a list of those.

        config: None for the model's defaults; options: `GenerationConfig.updated`'s, set on top. With messages: tools
        that the model may call, tool_choice and parallel_tool_calls (all in OpenAI's form), template_options (variables
        for the chat template). draft: a smaller model with the same vocabulary that foresees tokens; priority: lower
        runs first; timeout: seconds after which each ends as it is.
        Raises: ConfigError, CapacityError, TokenizerError, GraphRunError.
        """
        prompts, is_batch = as_list(prompt)
        prepared = [
            self.prepare(
                one,
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
            for one in prompts
        ]
        results = self._generate(prepared)
        return results if is_batch else results[0]

    def stream(
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
    ) -> abc.Generator[Chunk, None, None]:
        """Continue one prompt, piece by piece; the pieces' texts joined are the whole text.

        Arguments are `generate`'s. Closing the iterator ends the text.
        Raises: as `generate`, when called, before the first piece.
        """
        if as_list(prompt)[1]:
            raise ConfigError("stream takes one prompt; use generate for several")
        prepared = self.prepare(
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
        pieces = self._streamed(self.engine.submit(prepared.request), prepared.writer)
        next(pieces)  # of a generator that has not begun, closing runs nothing
        return pieces

    def prepare(
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
        options: Mapping[str, object] = MappingProxyType({}),
    ) -> Prepared:
        """A prompt encoded and its settings made, ready for an engine. Arguments as for `generate`; any thread may.

        Raises: ConfigError, TokenizerError.
        """
        settings = (config or self.generation_config).updated(**options)
        chat = ChatOptions(
            tools=tools,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
            template_options=template_options,
        )
        model = None if draft is None else self._draft_model(draft)
        delivery = Delivery(priority=priority, timeout=timeout, draft_model=model)
        return self._preparer.prepare(prompt, settings, chat, delivery)

    def warm_up(self) -> None:
        """Do now what the first constraint or forced tool call would wait for; called before others are served.

        llguidance reads the vocabulary: 0.6 s for SmolLM2, 4 s for Gemma 3, in which no other Python code runs.
        """
        self._preparer.warm_up()

    def generator(self, config: GenerationConfig | None = None, **options: object) -> Generator:
        """Generate step by step, with the logits at hand. Raises: ConfigError."""
        settings = (config or self.generation_config).updated(**options)
        return Generator(self._owner(), self._preparer, settings)

    def restore(self, path: str | Path) -> Generator:
        """Go on where `Generator.save` was called, without running anything of it again.

        Raises: ConfigError if the file is damaged, or of another model, precision or version; CapacityError.
        """
        saved = SessionFile.read(Path(path), self._identity())
        generator = Generator(self._owner(), self._preparer, saved.config)
        generator.restore(saved)
        return generator

    def logits(self, token_ids: abc.Sequence[int]) -> FloatArray:
        """The logits that follow each token, teacher-forced: [T, V] float32. Raises: ConfigError, CapacityError."""
        if not are_tokens(token_ids):
            raise ConfigError("logits() takes a list of token ids; llm.tokenizer.encode makes one of a text")
        if not len(token_ids) or min(token_ids) < 0 or max(token_ids) >= self.config.vocab_size:
            raise ConfigError(f"token ids between 0 and {self.config.vocab_size - 1} are needed, at least one")
        if len(token_ids) > self.max_seq_len:
            raise CapacityError(f"{len(token_ids)} tokens; at most {self.max_seq_len} fit (max_seq_len)")
        with self._alone():
            self.engine.settle()
            if self.engine.running:
                raise ConfigError("logits() needs the cache to itself; wait until the running texts have ended")
            row = self._runner.cache.allocate(len(token_ids))
            try:
                return self._runner.score(row, [int(token) for token in token_ids])
            finally:
                self._runner.cache.free(row)

    def close(self) -> None:
        """Free the graph and its cache; texts in the making are cancelled. Closing twice does nothing.

        Raises: ConfigError while an AsyncLLM runs it.
        """
        with self._alone():
            if self._is_lent:
                raise ConfigError("this model is run by an AsyncLLM; close that first")
            if self._engine is not None:
                self._engine.cancel_all()
                self._runner.release()
                self._engine = None
                del self._runner

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def engine(self) -> Engine:
        """The engine that runs this model. Raises: ConfigError once the model is closed, or while another steps it."""
        if self._engine is None:
            raise ConfigError("this model is closed; load it again")
        if self._is_lent:
            raise ConfigError("this model is run by an AsyncLLM; use that, or close it first")
        return self._engine

    @property
    def graph_seconds(self) -> float:
        """Seconds spent inside runs of the graph since the model was loaded."""
        return self._runner.graph_seconds

    def lend(self) -> Engine:
        """The engine, for someone else to step until `take_back`; this model's own methods are refused meanwhile.

        Raises: ConfigError if the model is closed or lent already.
        """
        with self._alone():
            engine = self.engine
            self._is_lent = True
            return engine

    def take_back(self) -> None:
        """End a loan."""
        self._is_lent = False
        if self._engine is not None:
            self._engine.reopen()

    def _identity(self) -> str:
        """What keys and values depend on: the package they were computed with."""
        return f"{self.config.provenance!r} {self.config.cache_dtype} contract {self.config.contract_version}"

    def _draft_model(self, draft: LLM) -> DraftModel:
        """Another model as this one's drafter. Raises: ConfigError if it has another vocabulary, or is this model."""
        if draft is self:
            raise ConfigError("draft is this model itself; give a smaller one with the same vocabulary")
        if draft._engine is None:
            raise ConfigError("the draft model is closed; load it again")
        if draft._is_lent:
            raise ConfigError("the draft model is run by an AsyncLLM; close that first")
        if draft not in self._known_drafts:
            if draft.tokenizer.backend.get_vocab() != self.tokenizer.backend.get_vocab():
                raise ConfigError(f"the draft model {draft.path.name} has another vocabulary than {self.path.name}")
            self._known_drafts.add(draft)
        return draft._drafting

    def _generate(self, prepared: abc.Sequence[Prepared]) -> list[Generation]:
        jobs: list[Job] = []
        try:
            jobs.extend(self.engine.submit(each.request) for each in prepared)
            while True:
                with self._alone():
                    if all(job.is_over for job in jobs):
                        return [each.writer.result(job) for job, each in zip(jobs, prepared, strict=True)]
                    self.engine.step()
        finally:
            self._abandon(jobs)

    def _streamed(self, job: Job, writer: JobWriter) -> abc.Generator[Chunk, None, None]:
        """An empty piece at once, which `stream` takes, and then those of the texts."""
        try:
            yield Chunk(token_ids=[])
            while not job.is_over or writer.num_unread:
                yield from writer.take()
                with self._alone():
                    if not writer.num_unread and not job.is_over:  # another thread's step may have brought some
                        self.engine.step()
            if job.error is not None:
                raise job.error
        finally:
            self._abandon([job])

    def _abandon(self, jobs: abc.Sequence[Job]) -> None:
        """Free the rows of jobs that nobody waits for any more."""
        if (engine := self._engine) is None:
            return
        for job in jobs:
            if not job.is_over:
                engine.cancel(job)
        # A stream may be collected as garbage in the middle of a step, where rows must not move, or in a thread that
        # has another model's lock: whoever has this one, or comes next, frees them then.
        if self._lock.acquire(blocking=False):
            try:
                if self._depth == 0 and self._engine is not None and not self._is_lent:
                    engine.settle()
            finally:
                self._lock.release()

    def _owner(self) -> Owner:
        return Owner(engine=lambda: self.engine, alone=self._alone, abandon=self._abandon, identity=self._identity())

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Have the engine and its cache to oneself; other threads wait for their turn, and no row is one of drafts."""
        with self._lock:
            self._depth += 1
            try:
                if self._depth == 1:  # inside, who drafts with them may be in the middle of it
                    self._drafting.free_all()
                yield
            finally:
                self._depth -= 1

    @contextmanager
    def _unless_busy(self) -> Iterator[bool]:
        """Whether the cache may be drafted in meanwhile: nobody else is at it, and there is no text of this model's."""
        if not self._lock.acquire(blocking=False):
            yield False
            return
        self._depth += 1
        try:
            engine = None if self._is_lent or self._depth > 1 else self._engine
            yield engine is not None and not engine.has_work
        finally:
            self._depth -= 1
            self._lock.release()
