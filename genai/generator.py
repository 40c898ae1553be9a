"""Generation step by step, on the same engine as everything else: append, look at the logits, choose, rewind, save."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as List
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import Self

from genai.decoding.processors import FloatArray
from genai.engine.engine import Engine
from genai.engine.sequence import Job, Sequence
from genai.errors import ConfigError
from genai.generation_config import GenerationConfig
from genai.prepare import ChatOptions, Delivery, Preparer, are_tokens
from genai.session_file import SessionFile


class Generator:
    """One text, a token at a time.

        generator = llm.generator(temperature=0.7, seed=1)
        generator.append_input_tokens(llm.tokenizer.encode("Once upon a time"))
        while not generator.is_done:
            print(llm.tokenizer.decode([generator.generate_next_token()]), end="")

    Other texts of the same model may run in between. Use as a context manager, or call `close`: it frees the row. The
    first tokens appended are the prompt; penalties count those appended later as generated.
    """

    def __init__(
        self,
        engine: Engine,
        preparer: Preparer,
        config: GenerationConfig,
        alone: Callable[[], AbstractContextManager[None]],
        identity: str,
    ) -> None:
        for name, is_set in {"n": config.n > 1, "num_beams": config.is_beam_search}.items():
            if is_set:
                raise ConfigError(f"{name}: a generator makes one text; use generate for several")
        if config.stop_strings:
            raise ConfigError("stop_strings: a generator knows tokens only; look at the text, or use stream")
        self.config = config
        self._engine = engine
        self._preparer = preparer
        self._alone = alone
        self._identity = identity
        self._job: Job | None = None

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
        """Whether the text has ended: an end-of-sequence token, or a limit."""
        return self._job is not None and self._job.is_over

    @property
    def logits(self) -> FloatArray:
        """The logits that follow the last token, [V] float32, before any processing; a copy. Raises: GenAIError."""
        return self._with_logits().copy()

    def append_input_tokens(self, token_ids: List[int]) -> None:
        """Add tokens to the text; they are run when logits are needed. Raises: ConfigError, CapacityError."""
        if not are_tokens(token_ids) or not len(token_ids):
            raise ConfigError("append_input_tokens takes a list of token ids, at least one")
        tokens = [int(token) for token in token_ids]
        if self._job is None:
            prepared = self._preparer.prepare(tokens, self.config, ChatOptions(), Delivery(is_manual=True))
            self._job = self._engine.submit(prepared.request)
            return
        with self._alone():
            self._engine.append(self._sequence, tokens)

    def generate_next_token(self) -> int:
        """Choose the next token and add it to the text. Raises: ConfigError if the text has ended; GenAIError."""
        self._with_logits()
        with self._alone():
            return self._engine.pick(self._sequence)

    def rewind_to(self, num_tokens: int) -> None:
        """Forget the tokens after so many; the random stream goes on. Raises: ConfigError."""
        count = len(self.token_ids)
        if not 0 <= num_tokens <= count:
            raise ConfigError(f"rewind_to({num_tokens}): the text has {count} tokens")
        if num_tokens == count:
            return
        if num_tokens == 0:
            self.close()
            return
        with self._alone():
            if self.is_done:  # its row is gone: what the prefix cache does not have is run again
                self._reopen()
            self._engine.rewind(self._sequence, num_tokens)

    def save(self, path: str | Path) -> None:
        """Write keys, values, tokens and the random stream to a safetensors file. Raises: ConfigError, GenAIError."""
        with self._alone():
            self._with_logits()
            SessionFile.of(self._sequence, self._engine.export(self._sequence), self._identity).write(Path(path))

    def restore(self, saved: SessionFile) -> None:
        """Take up a saved text. Raises: ConfigError, CapacityError."""
        prepared = self._preparer.prepare(saved.prompt, self.config, ChatOptions(), Delivery(is_manual=True))
        with self._alone():
            self._job = self._engine.resume(prepared.request, saved.generated, saved.logits, saved.cache)
            try:
                self._sequence.sampler.restore(saved.sampler)
            except (KeyError, TypeError, ValueError, OverflowError) as error:
                self.close()
                raise ConfigError(f"the session's random stream is damaged: {error!r}; save it again") from None

    def close(self) -> None:
        """Free the row; the generator can then begin another text."""
        if self._job is not None:
            with self._alone():
                self._engine.cancel(self._job)
                self._engine.settle()
            self._job = None

    def _reopen(self) -> None:
        """Begin the same text again, up to its end."""
        old = self._sequence
        prepared = self._preparer.prepare(
            old.tokens[: old.num_prompt], self.config, ChatOptions(), Delivery(is_manual=True)
        )
        self._job = self._engine.submit(prepared.request)
        self._engine.append(self._sequence, old.generated)
        self._sequence.sampler.restore(old.sampler.state())

    @property
    def _sequence(self) -> Sequence:
        if self._job is None:
            raise ConfigError("the text is empty; append_input_tokens first")
        return self._job.sequences[0]

    def _with_logits(self) -> FloatArray:
        """Run what has not been run. Raises: ConfigError if there is nothing, or the text has ended."""
        sequence = self._sequence
        while sequence.logits is None or sequence.row is None:
            sequence.logits = None  # a row that was lost to others is run again
            if sequence.error is not None:
                raise sequence.error
            if sequence.finish_reason is not None:
                raise ConfigError(
                    f"the text has ended ({sequence.finish_reason}); rewind_to goes back, close begins anew"
                )
            with self._alone():
                sequence.is_paused = False
                self._engine.step()
        return sequence.logits
