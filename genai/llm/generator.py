"""Generation step by step, on the same engine as everything else: append, look at the logits, choose, rewind, save."""

from __future__ import annotations

import weakref
from collections import abc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from genai.decoding.processors import FloatArray
from genai.engine.engine import Engine
from genai.engine.request import Request
from genai.engine.sequence import Job, Sequence
from genai.errors import ConfigError
from genai.llm.prepare import Preparer, are_tokens
from genai.llm.session_file import SessionFile
from genai.options.generation_config import GenerationConfig
from genai.runtime.adapters import ScaledAdapter

if TYPE_CHECKING:
    from genai.llm.llm import LLM

T = TypeVar("T")


class Generator:
    """One text, a token at a time.

        generator = llm.generator(temperature=0.7, seed=1)
        generator.append_input_tokens(llm.tokenizer.encode("Once upon a time"))
        while not generator.is_done:
            print(llm.tokenizer.decode([generator.generate_next_token()]), end="")

    Other texts of the same model may run in between. Use as a context manager, or call `close`: it frees the row. What
    is appended before the first token is generated is the prompt; limits and penalties count what is appended later as
    generated.
    """

    def __init__(
        self, llm: LLM, preparer: Preparer, config: GenerationConfig, adapter: ScaledAdapter | None = None
    ) -> None:
        for name, (is_set, why) in {
            "n": (config.n > 1, "a generator makes one text; use generate for several"),
            "num_beams": (config.is_beam_search, "a generator makes one text; use generate for several"),
            "stop_strings": (bool(config.stop_strings), "a generator knows tokens only; use stream"),
            "echo": (config.echo, "a generator knows tokens only; token_ids has the prompt"),
            "logprobs": (config.logprobs, "a generator has logits; use those, or generate"),
            "prompt_logprobs": (config.prompt_logprobs is not None, "a generator has logits; use those, or generate"),
            "speculative": (config.speculative is not None, "a generator runs one token at a time; use generate"),
        }.items():
            if is_set:
                raise ConfigError(f"{name}: {why}")
        _ = llm.engine  # a closed model's is refused
        self.config = config
        self._adapter = adapter
        self._llm = llm  # which is closed when nobody has it any more
        self._loop = llm.loop
        self._preparer = preparer
        self._job: Job | None = None
        self._forgotten: weakref.finalize[[Job], Generator] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    @property
    def token_ids(self) -> list[int]:
        """All tokens so far: appended and generated."""
        return [] if self._job is None else list(self._sequence.tokens)

    @property
    def is_done(self) -> bool:
        """Whether the text has ended: an end-of-sequence token, a limit, or a constraint that is fulfilled."""
        return self._job is not None and (self._job.is_over or self._sequence.is_full)

    @property
    def logits(self) -> FloatArray:
        """The logits that follow the last token, [V] float32, before any processing; a copy. Raises: GenAIError."""

        def copied(engine: Engine, sequence: Sequence) -> FloatArray:
            assert sequence.logits is not None, "they are there"
            return sequence.logits.copy()

        return self._with_logits(copied)

    def append_input_tokens(self, token_ids: abc.Sequence[int]) -> None:
        """Add tokens to the text, after its end too; they are run when logits are needed.

        Raises: ConfigError, CapacityError.
        """
        if not are_tokens(token_ids) or not len(token_ids):
            raise ConfigError("append_input_tokens takes a list of token ids, at least one")
        tokens = [int(token) for token in token_ids]
        if self._job is None:
            self._begin(tokens)
            return
        if self._job.error is not None:
            raise self._job.error
        sequence = self._sequence
        if sequence.is_over:
            sequence = self._reopen(len(sequence.tokens))
        elif not sequence.generated:  # what was run of it comes back from the prefix cache
            self._begin([*sequence.tokens, *tokens])
            return
        self._loop.call(lambda engine: engine.append(sequence, tokens))

    def generate_next_token(self) -> int:
        """Choose the next token and add it to the text. Raises: ConfigError if the text has ended; GenAIError."""

        def pick(engine: Engine, sequence: Sequence) -> int:
            if sequence.is_full:
                raise ConfigError("the text has ended: no token may follow; rewind_to goes back, close begins anew")
            return engine.pick(sequence)

        return self._with_logits(pick)

    def rewind_to(self, num_tokens: int) -> None:
        """Forget the tokens after so many; the random stream goes on. Raises: ConfigError."""
        count = len(self.token_ids)
        if not 0 <= num_tokens <= count:
            raise ConfigError(f"rewind_to({num_tokens}): the text has {count} tokens")
        if num_tokens == 0:
            self.close()
        elif num_tokens < count:
            sequence = self._sequence
            if sequence.is_over or num_tokens < sequence.num_prompt:
                self._reopen(num_tokens)
            else:
                self._loop.call(lambda engine: engine.rewind(sequence, num_tokens))

    def save(self, path: str | Path) -> None:
        """Write keys, values, tokens and the random stream to a safetensors file. Raises: ConfigError, GenAIError."""
        identity = self._llm.identity_with(self._adapter)

        def taken(engine: Engine, sequence: Sequence) -> SessionFile:
            return SessionFile.of(sequence, self._llm.cache_shape, engine.export(sequence), identity)

        self._with_logits(taken).write(Path(path))

    def restore(self, saved: SessionFile) -> None:
        """Take up a saved text. Raises: ConfigError, CapacityError."""
        request = self._request(saved.prompt)
        self._own(self._loop.call(lambda engine: engine.resume(request, saved.generated, saved.logits, saved.cache)))
        try:
            self._sequence.sampler.restore(saved.sampler)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            self.close()
            raise ConfigError(f"the session's random stream is damaged: {error!r}; save it again") from None

    def close(self) -> None:
        """Free the row; the generator can then begin another text."""
        if self._forgotten is not None:
            self._forgotten()
            self._job = self._forgotten = None
            self._loop.settle()

    def _begin(self, prompt: abc.Sequence[int]) -> None:
        """Begin a text, in place of the one that there is."""
        self._own(self._loop.submit(self._request(prompt), None))

    def _request(self, prompt: abc.Sequence[int]) -> Request:
        request = self._preparer.prepare(prompt, self.config).request
        return replace(request, is_manual=True, adapter=self._adapter)

    def _own(self, job: Job) -> None:
        """Follow a job, which ends with this generator even if nobody closes it."""
        if self._forgotten is not None:
            self._forgotten()
        self._job = job
        self._forgotten = weakref.finalize(self, self._loop.cancel, job)
        self._forgotten.atexit = False

    def _reopen(self, num_tokens: int) -> Sequence:
        """Begin the same text again, up to so many tokens; what the prefix cache does not have is run again."""
        old = self._sequence
        num_prompt = min(num_tokens, old.num_prompt)
        self._begin(old.tokens[:num_prompt])
        new = self._sequence
        self._loop.call(lambda engine: engine.append(new, old.tokens[num_prompt:num_tokens]))
        new.sampler.restore(old.sampler.state())
        return new

    @property
    def _sequence(self) -> Sequence:
        if self._job is None:
            raise ConfigError("the text is empty; append_input_tokens first")
        return self._job.sequences[0]

    def _with_logits(self, work: Callable[[Engine, Sequence], T]) -> T:
        """Run what has not been run, beside all other texts, and then do some work with the logits.

        Raises: ConfigError if there is nothing, or the text has ended.
        """
        sequence = self._sequence

        def done(engine: Engine) -> T:
            if sequence.error is not None:
                raise sequence.error
            if sequence.is_over:
                raise ConfigError(
                    f"the text has ended ({sequence.finish_reason}); rewind_to goes back, close begins anew"
                )
            return work(engine, sequence)

        return self._loop.call(done, lambda engine: engine.demand(sequence))
