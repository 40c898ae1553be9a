"""A loaded model: prompts in, texts out.

`LLM` joins the three things a text needs: the tokenizer (strings), the engine (tokens) and the package they came from.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping
from collections.abc import Sequence as List
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias, cast, overload

import numpy as np

from genai.config import EngineConfig, GenerationConfig, ModelConfig, Precision, replaced
from genai.decoding.processors import FloatArray
from genai.engine.engine import Engine, EngineLimits
from genai.engine.sequence import FinishReason, Sequence, TokenEvent
from genai.errors import ConfigError
from genai.progress import Progress, silent
from genai.runtime.load import load_runner
from genai.text.chat_template import Message
from genai.text.stop import StopStrings
from genai.text.tokenizer import Tokenizer

_log = logging.getLogger(__name__)

Prompt: TypeAlias = str | List[int] | List[Message]


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Token counts; cached_tokens: prompt tokens that did not have to be run again."""

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Timings:
    """Seconds: from submission to the first token, in prefill, and in decoding; and generated tokens per second."""

    time_to_first_token: float
    prefill_seconds: float
    decode_seconds: float

    tokens_per_second: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A finished text.

    text: without special tokens, and ending before a stop string; token_ids: everything generated; finish_reason:
    "stop" (end of sequence or a stop string) or "length"; logprobs: one for each token if asked for.
    """

    text: str
    token_ids: list[int]
    finish_reason: FinishReason
    usage: Usage
    timings: Timings
    logprobs: list[float] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """A piece of a text in the making; the last one carries `finish_reason` and the whole `result`."""

    text: str
    token_ids: list[int]
    finish_reason: FinishReason | None = None
    result: Generation | None = None


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

    def __init__(self, path: Path, config: EngineConfig | None = None) -> None:
        self.path = Path(path)
        self.config = ModelConfig.read(self.path)
        self.engine_config = config or EngineConfig()
        loaded = load_runner(self.path, self.config, self.engine_config)
        self._runner = loaded.runner
        self.max_seq_len = loaded.max_seq_len
        self.tokenizer = Tokenizer.from_folder(
            self.path,
            bos_token_id=self.config.bos_token_id,
            eos_token_ids=self.config.eos_token_ids,
            pad_token_id=self.config.pad_token_id,
        )
        limits = EngineLimits(
            max_batch=self.engine_config.max_batch,
            max_seq_len=self.max_seq_len,
            prefill_chunk=self.engine_config.prefill_chunk,
        )
        self._engine: Engine | None = Engine(self._runner, limits, self.config.eos_token_ids)
        self._defaults = GenerationConfig().updated(**self.config.generation)
        self._lock = threading.RLock()

    @overload
    def generate(  # type: ignore[overload-overlap]  # a string is a sequence of strings too
        self, prompt: Prompt, config: GenerationConfig | None = None, **options: object
    ) -> Generation: ...

    @overload
    def generate(
        self, prompt: List[Prompt], config: GenerationConfig | None = None, **options: object
    ) -> list[Generation]: ...

    def generate(
        self, prompt: Prompt | List[Prompt], config: GenerationConfig | None = None, **options: object
    ) -> Generation | list[Generation]:
        """Continue one prompt, or several in one batch: a string, token ids, chat messages, or a list of those.

        config: None for the model's defaults; options: `GenerationConfig.updated`'s, set on top.
        Raises: ConfigError, CapacityError, TokenizerError.
        """
        settings = (config or self._defaults).updated(**options)
        results = self._generate([self._encoded(one) for one in _as_list(prompt)], settings)
        return results if _is_batch(prompt) else results[0]

    def stream(self, prompt: Prompt, config: GenerationConfig | None = None, **options: object) -> Iterator[Chunk]:
        """Continue one prompt, piece by piece; the pieces' texts joined are the whole text.

        Closing the iterator ends the sequence. Raises: as `generate`, when called, before the first piece.
        """
        if _is_batch(prompt):
            raise ConfigError("stream takes one prompt; use generate for several")
        settings = (config or self._defaults).updated(**options)
        tokens = self._encoded(prompt)
        with self._lock:
            writer = _Writer(self._live_engine.submit(tokens, settings), self.tokenizer)
        return self._streamed(writer)

    def logits(self, token_ids: List[int]) -> FloatArray:
        """The logits that follow each token, teacher-forced: [T, V] float32."""
        with self._lock:
            engine = self._live_engine
            if not len(token_ids) or min(token_ids) < 0 or max(token_ids) >= self.config.vocab_size:
                raise ConfigError(f"token ids between 0 and {self.config.vocab_size - 1} are needed, at least one")
            engine.drop_kept()
            row = self._runner.cache.allocate(len(token_ids))
            try:
                return self._runner.score(row, list(token_ids))
            finally:
                self._runner.cache.free(row)

    def close(self) -> None:
        """Free the graph and its cache. Closing twice does nothing."""
        with self._lock:
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
    def _live_engine(self) -> Engine:
        if self._engine is None:
            raise ConfigError("this model is closed; load it again")
        return self._engine

    def _encoded(self, prompt: Prompt) -> list[int]:
        if isinstance(prompt, str):
            return self.tokenizer.encode(prompt)
        if len(prompt) and all(isinstance(item, Mapping) for item in prompt):
            return self.tokenizer.apply_chat_template([item for item in prompt if isinstance(item, Mapping)])
        if all(isinstance(item, int | np.integer) for item in prompt):
            return [int(item) for item in prompt if isinstance(item, int | np.integer)]
        raise ConfigError("a prompt is a string, a list of token ids, or a list of messages with 'role' and 'content'")

    def _generate(self, prompts: List[list[int]], settings: GenerationConfig) -> list[Generation]:
        with self._lock:
            engine = self._live_engine
            writers: list[_Writer] = []
            try:
                writers.extend(_Writer(engine.submit(tokens, settings), self.tokenizer) for tokens in prompts)
                by_sequence = {id(writer.sequence): writer for writer in writers}
                while any(writer.sequence.finish_reason is None for writer in writers):
                    for event in engine.step():
                        if writer := by_sequence.get(id(event.sequence)):
                            writer.push(event, engine)
                return [writer.result() for writer in writers]
            finally:
                for writer in writers:
                    engine.finish(writer.sequence, "cancelled")

    def _streamed(self, writer: _Writer) -> Iterator[Chunk]:
        try:
            while not writer.is_finished:
                with self._lock:
                    engine = self._live_engine
                    events = [event for event in engine.step() if event.sequence is writer.sequence]
                    chunks = [writer.push(event, engine) for event in events]
                yield from (chunk for chunk in chunks if chunk.text or chunk.token_ids or chunk.result)
        finally:
            with self._lock:
                if self._engine is not None:
                    self._engine.finish(writer.sequence, "cancelled")


def _as_list(prompt: Prompt | List[Prompt]) -> List[Prompt]:
    return cast(List[Prompt], prompt) if _is_batch(prompt) else [cast(Prompt, prompt)]


def _is_batch(prompt: Prompt | List[Prompt]) -> bool:
    """Whether this is a list of prompts rather than one prompt. Raises: ConfigError for an empty list."""
    if isinstance(prompt, str):
        return False
    if not len(prompt):
        raise ConfigError("the prompt is empty; give a string, token ids, messages, or a list of those")
    return not isinstance(prompt[0], int | np.integer | Mapping)


class _Writer:
    """Turns one sequence's tokens into text, and ends it at a stop string."""

    def __init__(self, sequence: Sequence, tokenizer: Tokenizer) -> None:
        self.sequence = sequence
        self._detokenizer = tokenizer.detokenizer()
        self._stops = StopStrings(sequence.config.stop_strings)
        self._pieces: list[str] = []
        self.is_finished = False

    def push(self, event: TokenEvent, engine: Engine) -> Chunk:
        """The text that one event adds; an end-of-sequence token adds none."""
        sequence, text, is_stopped = self.sequence, "", False
        tokens = [] if event.token is None else [event.token]
        if tokens and not (event.finish_reason == "stop" and tokens[0] in sequence.eos_token_ids):
            text, is_stopped = self._stops.push(self._detokenizer.push(tokens[0]))
        if is_stopped:
            engine.finish(sequence, "stop")
            sequence.finish_reason = "stop"  # also when the same token reached a limit
        elif event.finish_reason is not None:
            tail, is_stopped = self._stops.push(self._detokenizer.finish())
            text += tail if is_stopped else tail + self._stops.finish()
        self._pieces.append(text)
        if sequence.finish_reason is None:
            return Chunk(text=text, token_ids=tokens)
        self.is_finished = True
        return Chunk(text=text, token_ids=tokens, finish_reason=sequence.finish_reason, result=self.result())

    def result(self) -> Generation:
        """The whole text, once the sequence has ended."""
        sequence = self.sequence
        assert sequence.finish_reason is not None
        generated = sequence.generated
        decode_seconds = max(sequence.finished - sequence.first_token, 0.0)
        return Generation(
            text="".join(self._pieces),
            token_ids=generated,
            finish_reason=sequence.finish_reason,
            usage=Usage(
                prompt_tokens=sequence.num_prompt,
                completion_tokens=len(generated),
                cached_tokens=sequence.num_cached,
            ),
            timings=Timings(
                time_to_first_token=sequence.first_token - sequence.submitted,
                prefill_seconds=sequence.first_token - sequence.started,
                decode_seconds=decode_seconds,
                tokens_per_second=(len(generated) - 1) / decode_seconds if len(generated) > 1 else 0.0,
            ),
            logprobs=list(sequence.logprobs) if sequence.config.logprobs else None,
        )
