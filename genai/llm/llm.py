"""A loaded model: prompts in, texts out.

`LLM` joins the three things a text needs: the tokenizer (strings), the engine (tokens) and the package they came from.
"""

from __future__ import annotations

import threading
import weakref
from collections import abc
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self, overload

from genai.config import EngineConfig, ModelConfig, Precision
from genai.decoding.processors import FloatArray
from genai.engine.drafting.draft_model import DraftModel
from genai.engine.engine import Engine
from genai.engine.loop import EngineLoop
from genai.engine.prefix_cache import BLOCK_SIZE, PrefixCache
from genai.engine.scheduler import Limits
from genai.engine.streams import Feed
from genai.errors import CapacityError, ConfigError, TaskError
from genai.llm.adapters import AdapterChoice, Adapters
from genai.llm.embedding import Embedder, Texts
from genai.llm.generator import Generator
from genai.llm.prepare import ChatOptions, Preparation, Prepared, Preparer, Prompt, are_tokens, as_list
from genai.llm.reading import NO_EMBEDDINGS, NO_HEAD, Asked
from genai.llm.results import Chunk, Generation
from genai.llm.scoring import Scorer
from genai.llm.session_file import SessionFile
from genai.llm.together import Together
from genai.metrics import EngineMetrics
from genai.options.generation_config import GenerationConfig, replaced
from genai.progress import Progress, silent
from genai.runtime.adapters import ScaledAdapter
from genai.runtime.host import default_threads
from genai.runtime.load import load_runner
from genai.tokenizer.tokenizer import Tokenizer


def load(
    model: str | Path,
    *,
    precision: Precision = "auto",
    progress: Progress = silent,
    adapters: Mapping[str, str | Path] | None = None,
    lora_slots: int | None = None,
    max_rank: int | None = None,
    **engine_options: object,
) -> LLM:
    """Load a model by known name, package folder, Hugging Face folder, `.gguf` file or hub id.

    What is missing is fetched and built first, and kept. adapters: to be loaded by name, LoRA as PEFT or llama.cpp
    saves it; lora_slots: how many there is room for, none above the rank `max_rank`; None: for those, and a few more.
    engine_options: the fields of `EngineConfig`. Raises: GenAIError's kinds.
    """
    from genai import models
    from genai.runtime.providers import choose_device

    config = replaced(EngineConfig(), **engine_options)
    given = dict(adapters or {})
    room = models.room_for(given.values(), lora_slots, max_rank)
    device = choose_device(config.device)
    llm = LLM(models.package(str(model), precision=precision, device=device, room=room, progress=progress), config)
    try:
        for name, path in given.items():
            llm.load_adapter(name, path)
    except BaseException:
        llm.close()
        raise
    return llm


class LLM:
    """A model package, loaded. Use as a context manager, or call `close`.

    Any number of threads may use it at once, and coroutines through `AsyncLLM`: all texts run in one batch, on a thread
    of the model's own, its loop. Raises: ContractError, CapacityError, RuntimeUnavailableError.
    """

    def __init__(self, path: Path, config: EngineConfig | None = None, *, name: str | None = None) -> None:
        """Load a package folder; name: how metrics call it, the folder's name by default."""
        self.path = Path(path)
        self.config = ModelConfig.read(self.path)
        self.engine_config = config or EngineConfig()
        self.metrics = EngineMetrics(name or self.path.name)
        loaded = load_runner(self.path, self.config, self.engine_config)
        self._runner = loaded.runner
        self.cache_shape = loaded.runner.cache.shape
        self.max_seq_len = loaded.max_seq_len
        self.same_bits = loaded.same_bits
        self.tokenizer = Tokenizer.from_folder(
            self.path,
            bos_token_id=self.config.bos_token_id,
            eos_token_ids=self.config.eos_token_ids,
            pad_token_id=self.config.pad_token_id,
        )
        self.loop = EngineLoop(self._new_engine(loaded.prefix_cache_bytes), self._runner)
        weakref.finalize(self, self.loop.abandon).atexit = False
        self.adapters = Adapters(self.config, self._runner.adapters, self.loop)
        self._preparer = Preparer(self.tokenizer, self.config.vocab_size, self.config.eos_token_ids, self.max_seq_len)
        self.generation_config = GenerationConfig().updated(**self.config.generation)
        self._known_drafts: weakref.WeakSet[LLM] = weakref.WeakSet()  # models whose vocabulary was found to be the same

    def _new_engine(self, prefix_cache_bytes: int) -> Engine:
        limits = Limits(
            max_batch=self.engine_config.max_batch,
            max_seq_len=self.max_seq_len,
            prefill_chunk=self.engine_config.prefill_chunk,
            max_waiting=self.engine_config.max_waiting,
        )
        shape = self._runner.cache.shape
        model = repr(self.config.provenance).encode()
        prefixes = PrefixCache(model, shape.slot_bytes, prefix_cache_bytes, shape.state_bytes)
        self.metrics.saw_prefix_room(BLOCK_SIZE, prefixes.max_tokens // BLOCK_SIZE)
        num_threads = self.engine_config.num_threads or default_threads()
        return Engine(self._runner, limits, self.config.eos_token_ids, prefixes, self.metrics, num_threads=num_threads)

    @overload
    def generate(  # type: ignore[overload-overlap]  # a string is a sequence of strings too
        self, prompt: Prompt, config: GenerationConfig | None = None, **options: object
    ) -> Generation: ...

    @overload
    def generate(
        self, prompt: abc.Sequence[Prompt], config: GenerationConfig | None = None, **options: object
    ) -> list[Generation]: ...

    def generate(
        self, prompt: Prompt | abc.Sequence[Prompt], config: GenerationConfig | None = None, **options: object
    ) -> Generation | list[Generation]:
        """Continue one prompt, or several in one batch: a string, token ids, chat messages, or a list of those.

        config: None for the model's defaults; options: `prepare`'s, which are `GenerationConfig.updated`'s and more.
        Raises: ConfigError, also when the model is closed meanwhile; CapacityError, QueueFullError, TokenizerError,
        GraphRunError.
        """
        prompts, is_batch = as_list(prompt)
        prepared = [self._prepared(one, config, options) for one in prompts]
        results = Together(self.loop, prepared, self.engine_config.max_batch).results()
        return results if is_batch else results[0]

    def stream(
        self, prompt: Prompt, config: GenerationConfig | None = None, **options: object
    ) -> abc.Generator[Chunk, None, None]:
        """Continue one prompt, piece by piece; the pieces' texts joined are the whole text.

        Arguments are `generate`'s. Closing the iterator ends the text; one that is not read on pauses it.
        Raises: as `generate`, when called, before the first piece.
        """
        if as_list(prompt)[1]:
            raise ConfigError("stream takes one prompt; use generate for several")
        pieces = self._streamed(self._prepared(prompt, config, options), options.get("draft"))
        next(pieces)  # of a generator that has not begun, closing runs nothing
        return pieces

    def prepare(self, prompt: Prompt, config: GenerationConfig | None = None, **options: object) -> Prepared:
        """A prompt encoded and its settings made, ready for the loop. Any thread may.

        Arguments are those of `begin`. Raises: ConfigError, TokenizerError; QueueFullError while a grammar that others
        gave takes too long.
        """
        return self.begin(prompt, config, **options).finish()  # type: ignore[arg-type]  # checked where they are used

    def begin(
        self,
        prompt: Prompt,
        config: GenerationConfig | None = None,
        *,
        tools: abc.Sequence[Mapping[str, object]] | None = None,
        tool_choice: object = None,
        parallel_tool_calls: bool | None = None,
        template_options: Mapping[str, object] | None = None,
        continue_final_message: bool = False,
        draft: LLM | None = None,
        adapter: AdapterChoice | None = None,
        priority: int = 0,
        timeout: float | None = None,
        **options: object,
    ) -> Preparation:
        """A prompt encoded and its settings made; a grammar that is not known yet is left to `Preparation.finish`.

        With messages: tools that the model may call, tool_choice and parallel_tool_calls (all in OpenAI's form),
        template_options (variables for the chat template), continue_final_message (the answer goes on where the last
        message, an assistant's, ends). draft: a smaller model with the same vocabulary that foresees tokens; adapter:
        the name of one that is loaded, which changes the model for this text, or (name, scale); priority: lower runs
        first; timeout: seconds after which each text ends as it is; options: `GenerationConfig.updated`'s, set on top
        of `config`. Raises: ConfigError, TokenizerError.
        """
        self._require_head()
        settings = (config or self.generation_config).updated(**options)
        chat = ChatOptions(
            tools=tools,
            tool_choice=tool_choice,
            parallel_tool_calls=parallel_tool_calls,
            template_options=template_options,
            continue_final_message=continue_final_message,
        )
        model = None if draft is None else self._draft_model(draft)
        loaded = self.adapters.get(adapter)
        begun = self._preparer.begin(prompt, settings, chat)

        def finish() -> Prepared:
            prepared = begun.finish()
            request = replace(prepared.request, priority=priority, timeout=timeout, draft_model=model, adapter=loaded)
            return Prepared(request=request, writer=prepared.writer)

        return Preparation(needs_compiling=begun.needs_compiling, finish=finish)

    def warm_up(self) -> None:
        """Do now what the first constraint or forced tool call would wait for; called before others are served.

        llguidance reads the vocabulary: 0.6 s for SmolLM2, 4 s for Gemma 3, in which no other Python code runs.
        """
        if self.config.embedding is None:
            self._preparer.warm_up()

    def load_adapter(self, name: str, path: str | Path) -> None:
        """Load a LoRA adapter, a PEFT folder or a GGUF file, while texts run; `adapter=name` asks for it from then on.

        Raises: AdapterError for what is no adapter of this model, has too large a rank, or finds no room; ConfigError
        for a name that is taken.
        """
        self.adapters.load(name, path)

    def unload_adapter(self, name: str) -> None:
        """Unload an adapter: no text begins with it any more, and those that have it go on to their end with it.

        Raises: ConfigError if it is not loaded.
        """
        self.adapters.unload(name)

    def generator(
        self, config: GenerationConfig | None = None, *, adapter: AdapterChoice | None = None, **options: object
    ) -> Generator:
        """Generate step by step, with the logits at hand; adapter: as for `begin`. Raises: ConfigError."""
        self._require_head()
        settings = (config or self.generation_config).updated(**options)
        return Generator(self, self._preparer, settings, self.adapters.get(adapter))

    def restore(self, path: str | Path, *, adapter: AdapterChoice | None = None) -> Generator:
        """Go on where `Generator.save` was called, without running anything of it again; adapter: which it had.

        Raises: ConfigError if the file is damaged, or of another model, adapter, precision or version; CapacityError.
        """
        self._require_head()
        loaded = self.adapters.get(adapter)
        saved = SessionFile.read(Path(path), self.identity_with(loaded), self.cache_shape)
        generator = Generator(self, self._preparer, saved.config, loaded)
        generator.restore(saved)
        return generator

    def logits(self, token_ids: abc.Sequence[int], *, adapter: AdapterChoice | None = None) -> FloatArray:
        """The logits that follow each token, teacher-forced: [T, V] float32; texts that run wait for them.

        adapter: as for `begin`. Raises: ConfigError; CapacityError if there is no room beside those texts.
        """
        self._require_head()
        if not are_tokens(token_ids):
            raise ConfigError("logits() takes a list of token ids; llm.tokenizer.encode makes one of a text")
        if not len(token_ids) or min(token_ids) < 0 or max(token_ids) >= self.config.vocab_size:
            raise ConfigError(f"token ids between 0 and {self.config.vocab_size - 1} are needed, at least one")
        if len(token_ids) > self.max_seq_len:
            raise CapacityError(f"{len(token_ids)} tokens; at most {self.max_seq_len} fit (max_seq_len)")
        loaded = self.adapters.get(adapter)
        return self.loop.call(lambda engine: engine.score([int(token) for token in token_ids], loaded))

    @cached_property
    def embedder(self) -> Embedder:
        """What prepares texts to be embedded. Raises: TaskError for a model that writes text."""
        if self.config.embedding is None:
            raise TaskError(NO_EMBEDDINGS)
        return Embedder(
            self.tokenizer, self.config.embedding, max_seq_len=self.max_seq_len, size=self.config.hidden_size
        )

    @cached_property
    def scorer(self) -> Scorer:
        """What prepares documents to be scored. Raises: TaskError for a model that makes embeddings."""
        self._require_head()
        return Scorer(self.tokenizer, self.max_seq_len, prompt=self.config.rerank_prompt)

    def embed(
        self,
        texts: Texts,
        *,
        dimensions: int | None = None,
        prompt_name: str | None = None,
        prompt: str | None = None,
        truncate: bool = False,
        adapter: AdapterChoice | None = None,
        priority: int = 0,
        timeout: float | None = None,
    ) -> FloatArray:
        """Embeddings of texts by an embedding model, in one batch: [N, H] float32, each one long if the model's are.

        texts: a string (N is 1), strings, or lists of token ids, which are taken as they are. dimensions: only so many
        first numbers of each, made one long again; for models that were trained for it (Matryoshka). prompt_name: one
        of the model's own texts that stand in front (`config.embedding.prompts`), such as "query"; prompt: the words
        themselves, as "Instruct: …\nQuery: ". truncate: cut texts that are too long, instead of refusing them. adapter:
        as for `begin`. Raises: TaskError for a model that writes text; ConfigError, CapacityError, TokenizerError,
        GraphRunError, QueueFullError, DeadlineError after `timeout` seconds.
        """
        asked = self.embedder.ask(
            texts,
            dimensions=dimensions,
            prompt_name=prompt_name,
            prompt=prompt,
            truncate=truncate,
            priority=priority,
            timeout=timeout,
        )
        return self._read(asked, adapter)

    def score(
        self,
        query: str,
        documents: abc.Sequence[str],
        *,
        instruction: str | None = None,
        adapter: AdapterChoice | None = None,
        priority: int = 0,
        timeout: float | None = None,
    ) -> FloatArray:
        """How well documents answer a query, for rerankers that are asked for yes or no: [N] float32 from 0 to 1.

        It is the share of "yes" in the probability of "yes" and "no" after Qwen3-Reranker's prompt, in the model's own
        chat template; other models that write both words can be asked so, too. instruction: what is looked for; None:
        passages that answer a web search query. adapter: as for `begin`. Raises: ConfigError, CapacityError,
        TokenizerError, GraphRunError, QueueFullError, DeadlineError after `timeout` seconds.
        """
        asked = self.scorer.ask(query, documents, instruction=instruction, priority=priority, timeout=timeout)
        return self._read(asked, adapter)

    def close(self) -> None:
        """Free the graph, its cache and its thread; who waits for a text meanwhile gets a ConfigError.

        Any thread may. Closing twice does nothing.
        """
        self.loop.close()
        self.__dict__.pop("_runner", None)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def engine(self) -> Engine:
        """The engine: to look at, or to step by hand as long as nothing else has been asked of the model.

        Raises: ConfigError once the model is closed.
        """
        return self.loop.engine

    @property
    def graph_seconds(self) -> float:
        """Seconds spent inside runs of the graph since the model was loaded."""
        return self._runner.graph_seconds

    @property
    def identity(self) -> str:
        """What keys and values depend on: the package they were computed with."""
        return f"{self.config.provenance!r} {self.config.cache_dtype} contract {self.config.contract_version}"

    def identity_with(self, adapter: ScaledAdapter | None) -> str:
        """The same for what was computed with an adapter."""
        return self.identity if adapter is None else f"{self.identity} adapter {adapter.identity.hex()}"

    def _draft_model(self, draft: LLM) -> DraftModel:
        """Another model as this one's drafter. Raises: ConfigError if it has another vocabulary, or is this model."""
        if draft is self:
            raise ConfigError("draft is this model itself; give a smaller one with the same vocabulary")
        draft._require_head()
        if draft.loop.is_closed:
            raise ConfigError("the draft model is closed; load it again")
        if draft not in self._known_drafts:
            if draft.tokenizer.backend.get_vocab() != self.tokenizer.backend.get_vocab():
                raise ConfigError(f"the draft model {draft.path.name} has another vocabulary than {self.path.name}")
            self._known_drafts.add(draft)
        return draft.loop.drafting

    def _prepared(self, prompt: Prompt, config: GenerationConfig | None, options: Mapping[str, object]) -> Prepared:
        return self.prepare(prompt, config, **options)

    def _require_head(self) -> None:
        """Raises: TaskError for a model that writes nothing."""
        if self.config.embedding is not None:
            raise TaskError(NO_HEAD)

    def _read(self, asked: Asked, adapter: AdapterChoice | None) -> FloatArray:
        asked = asked.with_adapter(self.adapters.get(adapter))
        return asked.outcome(Together(self.loop, asked.requests, self.engine_config.max_batch).results()).values

    def _streamed(self, prepared: Prepared, draft: object) -> abc.Generator[Chunk, None, None]:
        """An empty piece at once, which `stream` takes, and then those of the texts. draft: to be there meanwhile."""
        arrived = threading.Event()
        feed = Feed(prepared.writer, arrived.set)
        job = self.loop.submit(prepared.request, feed)
        try:
            yield Chunk(token_ids=[])
            while feed.has_more:
                self.loop.wait(arrived)
                arrived.clear()
                yield from feed.take(self.loop, job)
            if job.error is not None:
                raise job.error
        finally:
            self.loop.cancel(job)
