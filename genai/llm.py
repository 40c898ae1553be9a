"""A loaded model: prompts in, texts out.

`LLM` joins the three things a text needs: the tokenizer (strings), the engine (tokens) and the package they came from.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator, Iterator, Mapping
from collections.abc import Sequence as List
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias, TypeGuard, cast, overload

import numpy as np

from genai.config import EngineConfig, ModelConfig, Precision
from genai.decoding.processors import FloatArray
from genai.engine.engine import Engine, Request
from genai.engine.prefix_cache import PrefixCache
from genai.engine.scheduler import Limits
from genai.engine.sequence import Sequence
from genai.errors import CapacityError, ConfigError
from genai.generation_config import GenerationConfig, replaced
from genai.metrics import EngineMetrics
from genai.progress import Progress, silent
from genai.runtime.load import load_runner
from genai.text.chat_template import Message
from genai.text.tokenizer import Tokenizer
from genai.writer import Chunk, Generation, TextWriter

_log = logging.getLogger(__name__)

Prompt: TypeAlias = str | List[int] | List[Message]


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
    from genai.runtime.session import choose_device

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
        self._defaults = GenerationConfig().updated(**self.config.generation)
        self._lock = threading.RLock()
        self._depth = 0  # how often the thread that has the lock has taken it

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
        priority: int = 0,
        timeout: float | None = None,
        **options: object,
    ) -> Generation: ...

    @overload
    def generate(
        self,
        prompt: List[Prompt],
        config: GenerationConfig | None = None,
        *,
        priority: int = 0,
        timeout: float | None = None,
        **options: object,
    ) -> list[Generation]: ...

    def generate(
        self,
        prompt: Prompt | List[Prompt],
        config: GenerationConfig | None = None,
        *,
        priority: int = 0,
        timeout: float | None = None,
        **options: object,
    ) -> Generation | list[Generation]:
        """Continue one prompt, or several in one batch: a string, token ids, chat messages, or a list of those.

        config: None for the model's defaults; options: `GenerationConfig.updated`'s, set on top; priority: lower runs
        first; timeout: seconds after which each ends as it is. Raises: ConfigError, CapacityError, TokenizerError,
        GraphRunError.
        """
        prompts, is_batch = _as_list(prompt)
        writers = [self._writer(config, options) for _ in prompts]
        requests = [self._request(one, writer, priority, timeout) for one, writer in zip(prompts, writers, strict=True)]
        results = self._generate(requests, writers)
        return results if is_batch else results[0]

    def stream(
        self,
        prompt: Prompt,
        config: GenerationConfig | None = None,
        *,
        priority: int = 0,
        timeout: float | None = None,
        **options: object,
    ) -> Generator[Chunk, None, None]:
        """Continue one prompt, piece by piece; the pieces' texts joined are the whole text.

        Closing the iterator ends the sequence. Raises: as `generate`, when called, before the first piece.
        """
        if _as_list(prompt)[1]:
            raise ConfigError("stream takes one prompt; use generate for several")
        writer = self._writer(config, options)
        pieces = self._streamed(self.engine.submit(self._request(prompt, writer, priority, timeout)), writer)
        next(pieces)  # of a generator that has not begun, closing runs nothing
        return pieces

    def logits(self, token_ids: List[int]) -> FloatArray:
        """The logits that follow each token, teacher-forced: [T, V] float32. Raises: ConfigError, CapacityError."""
        if not _is_list(token_ids) or not all(map(_is_token, token_ids)):
            raise ConfigError("logits() takes a list of token ids; llm.tokenizer.encode makes one of a text")
        if not len(token_ids) or min(token_ids) < 0 or max(token_ids) >= self.config.vocab_size:
            raise ConfigError(f"token ids between 0 and {self.config.vocab_size - 1} are needed, at least one")
        if len(token_ids) > self.max_seq_len:
            raise CapacityError(f"{len(token_ids)} tokens; at most {self.max_seq_len} fit (max_seq_len)")
        with self._alone():
            if self.engine.running:
                raise ConfigError("logits() needs the cache to itself; wait until the running texts have ended")
            row = self._runner.cache.allocate(len(token_ids))
            try:
                return self._runner.score(row, [int(token) for token in token_ids])
            finally:
                self._runner.cache.free(row)

    def close(self) -> None:
        """Free the graph and its cache; texts in the making are cancelled. Closing twice does nothing."""
        with self._alone():
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
        """The engine that runs this model. Raises: ConfigError once the model is closed."""
        if self._engine is None:
            raise ConfigError("this model is closed; load it again")
        return self._engine

    def _writer(self, config: GenerationConfig | None, options: dict[str, object]) -> TextWriter:
        """What turns one sequence's tokens into text; it knows the settings."""
        return TextWriter(self.tokenizer, (config or self._defaults).updated(**options))

    def _request(self, prompt: Prompt, writer: TextWriter, priority: int, timeout: float | None) -> Request:
        return Request(
            prompt=self._encoded(prompt), config=writer.config, priority=priority, timeout=timeout, sink=writer
        )

    def _encoded(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        if _is_list(prompt):
            if len(prompt) and all(isinstance(item, Mapping) for item in prompt):
                return self.tokenizer.apply_chat_template([item for item in prompt if isinstance(item, Mapping)])
            if all(map(_is_token, prompt)):
                return [int(item) for item in prompt if _is_token(item)]
        raise ConfigError(_FORM)

    def _generate(self, requests: List[Request], writers: List[TextWriter]) -> list[Generation]:
        sequences: list[Sequence] = []
        try:
            sequences.extend(self.engine.submit(request) for request in requests)
            while True:
                with self._alone():
                    if all(sequence.finish_reason is not None for sequence in sequences):
                        return [writer.result(each) for each, writer in zip(sequences, writers, strict=True)]
                    self.engine.step()
        finally:
            self._abandon(sequences)

    def _streamed(self, sequence: Sequence, writer: TextWriter) -> Generator[Chunk, None, None]:
        """An empty piece at once, which `stream` takes, and then those of the text."""
        try:
            yield Chunk(text="", token_ids=[])
            while True:
                for chunk in writer.take():
                    if chunk.finish_reason is not None:
                        yield replace(chunk, result=writer.result(sequence))
                        return
                    yield chunk
                with self._alone():
                    if not writer.num_unread:  # another thread's step may have brought some
                        self.engine.step()
        finally:
            self._abandon([sequence])

    def _abandon(self, sequences: List[Sequence]) -> None:
        """Free the rows of sequences that nobody waits for any more."""
        if (engine := self._engine) is None:
            return
        for sequence in sequences:
            if sequence.finish_reason is None:
                engine.cancel(sequence)
        with self._alone():
            # A stream may be collected as garbage in the middle of a step: rows must not move there.
            if self._depth == 1:
                engine.settle()

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Have the engine and its cache to oneself; other threads wait for their turn."""
        with self._lock:
            self._depth += 1
            try:
                yield
            finally:
                self._depth -= 1


_FORM = "a prompt is a string, a list of token ids, or a list of messages with 'role' and 'content'"


def _as_list(prompt: Prompt | List[Prompt]) -> tuple[List[Prompt], bool]:
    """(prompts, whether they were several). Raises: ConfigError for an empty list, and for what is no list."""
    if isinstance(prompt, str):
        return [prompt], False
    if not _is_list(prompt):
        raise ConfigError(_FORM)
    if not len(prompt):
        raise ConfigError("the prompt is empty; give a string, token ids, messages, or a list of those")
    if isinstance(prompt[0], Mapping) or _is_token(prompt[0]):
        return [cast(Prompt, prompt)], False
    return cast(List[Prompt], prompt), True


def _is_list(value: object) -> TypeGuard[List[object]]:
    """Whether a value has items in order; bytes are a mistake, and not a list of ids."""
    return isinstance(value, List | np.ndarray) and not isinstance(value, bytes | bytearray | memoryview)


def _is_token(value: object) -> TypeGuard[int]:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
