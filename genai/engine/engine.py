"""The decoding loop: admit → prefill a chunk → decode everything that runs → report tokens.

One `step` runs at most one chunk of one prompt and one decode step of all running sequences, so a long prompt that
comes in does not stop the others. Strings are not known here: stop strings are the caller's, who calls `finish`.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence as Tokens
from dataclasses import dataclass

from genai.config import GenerationConfig
from genai.decoding.processors import FloatArray, log_probability
from genai.decoding.sampler import Sampler
from genai.engine.sequence import FinishReason, Sequence, TokenEvent
from genai.errors import CapacityError, ConfigError
from genai.runtime.runner import Runner


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineLimits:
    """What an engine accepts: sequences that run together, tokens of one sequence, tokens of one prefill run."""

    max_batch: int
    max_seq_len: int
    prefill_chunk: int


class Engine:
    """Runs sequences over one runner's cache.

    The row of the last sequence to end is kept until the cache is needed otherwise: a prompt that goes on from there
    (the next turn of a conversation) prefills only what is new.
    """

    def __init__(self, runner: Runner, limits: EngineLimits, eos_token_ids: tuple[int, ...]) -> None:
        self._runner = runner
        self._cache = runner.cache
        self._limits = limits
        self._eos_token_ids = eos_token_ids
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []
        self._kept: Sequence | None = None

    @property
    def has_work(self) -> bool:
        """Whether a step would do anything."""
        return bool(self._waiting or self._running)

    def submit(self, prompt: Tokens[int], config: GenerationConfig) -> Sequence:
        """Queue a prompt.

        Raises: ConfigError for an empty or invalid one, CapacityError for one that never fits.
        """
        vocab_size, limit = self._runner.vocab_size, self._limits.max_seq_len
        if not prompt:
            raise ConfigError("the prompt has no tokens; give at least one")
        if min(prompt) < 0 or max(prompt) >= vocab_size:
            bad = min(prompt) if min(prompt) < 0 else max(prompt)
            raise ConfigError(f"token id {bad} is outside the vocabulary (0 to {vocab_size - 1})")
        if len(prompt) >= limit:
            raise CapacityError(
                f"the prompt has {len(prompt)} tokens; at most {limit - 1} fit, with room for one more "
                f"(max_seq_len={limit})"
            )
        eos = self._eos_token_ids if config.eos_token_ids is None else config.eos_token_ids
        sequence = Sequence(
            tokens=list(prompt),
            num_prompt=len(prompt),
            config=config,
            eos_token_ids=frozenset() if config.ignore_eos else frozenset(eos),
            sampler=Sampler(config.sampling_config, prompt, vocab_size),
            max_tokens=min(limit, len(prompt) + (config.max_new_tokens or limit)),
        )
        self._waiting.append(sequence)
        return sequence

    def step(self) -> list[TokenEvent]:
        """Advance everything by one step. Raises: GraphRunError; then every sequence is ended first."""
        try:
            self._admit()
            return [*self._prefill(), *self._decode()]
        except Exception:
            self.cancel_all()
            raise

    def finish(self, sequence: Sequence, reason: FinishReason) -> None:
        """End a sequence now, whether it waits or runs, and free its row. Ending it twice does nothing."""
        if sequence.finish_reason is not None:
            return
        sequence.finish_reason = reason
        sequence.finished = time.perf_counter()
        if sequence in self._waiting:
            self._waiting.remove(sequence)
        if sequence.row is None:
            return
        self._running.remove(sequence)
        if self._running or self._waiting:
            self._release(sequence)
        else:
            self._kept = sequence

    def cancel_all(self) -> None:
        """End every sequence and forget the kept row."""
        for sequence in [*self._waiting, *self._running]:
            self.finish(sequence, "cancelled")
        self.drop_kept()

    def drop_kept(self) -> None:
        """Forget the row kept for a continuation."""
        if self._kept is not None:
            self._release(self._kept)
            self._kept = None

    def _release(self, sequence: Sequence) -> None:
        if sequence.row is not None:
            self._cache.free(sequence.row)
            sequence.row = None

    def _admit(self) -> None:
        """Give rows to waiting sequences, first come first served, while they fit."""
        while self._waiting and len(self._running) < self._limits.max_batch:
            sequence = self._waiting[0]
            if not self._reuse_kept(sequence):
                self.drop_kept()
                needs = [len(other.tokens) + 1 for other in [*self._running, sequence]]
                if self._running and not self._cache.can_hold(needs):
                    return
                sequence.row = self._cache.allocate(len(sequence.tokens) + 1)
            sequence.started = time.perf_counter()
            self._waiting.popleft()
            self._running.append(sequence)

    def _reuse_kept(self, sequence: Sequence) -> bool:
        """Take over the kept row if it begins like this prompt: at least the last token has to be run again."""
        kept = self._kept
        if kept is None or kept.row is None:
            return False
        held = kept.tokens[: self._cache.valid(kept.row)]
        common = min(_common_prefix(held, sequence.tokens), len(sequence.tokens) - 1)
        if common == 0:
            return False
        self._cache.truncate(kept.row, common)
        self._cache.reserve(kept.row, len(sequence.tokens) + 1)
        sequence.row, sequence.num_cached = kept.row, common
        kept.row = self._kept = None
        return True

    def _prefill(self) -> list[TokenEvent]:
        """One chunk of the first prompt that is not in the cache yet."""
        for sequence in self._running:
            row = _row(sequence)
            start = self._cache.valid(row)
            if start < sequence.num_prompt and len(sequence.tokens) == sequence.num_prompt:
                chunk = sequence.tokens[start : start + self._limits.prefill_chunk]
                logits = self._runner.prefill_chunk(row, chunk)
                return [self._advance(sequence, logits)] if start + len(chunk) == sequence.num_prompt else []
        return []

    def _decode(self) -> list[TokenEvent]:
        """One token for every sequence whose prompt is in the cache."""
        events = self._make_room()
        decoding = {_row(sequence): sequence for sequence in self._running if self._is_decoding(sequence)}
        if not decoding:
            return events
        rows = self._cache.rows
        logits = self._runner.decode([decoding[row].tokens[-1] if row in decoding else None for row in rows])
        advancing = [(decoding[row], logits[index]) for index, row in enumerate(rows) if row in decoding]
        return events + [self._advance(sequence, row_logits) for sequence, row_logits in advancing]

    def _is_decoding(self, sequence: Sequence) -> bool:
        return self._cache.valid(_row(sequence)) == len(sequence.tokens) - 1 >= sequence.num_prompt

    def _make_room(self) -> list[TokenEvent]:
        """Room for one more token in every row; a sequence that cannot get it ends here."""
        events = []
        for sequence in list(self._running):
            try:
                self._cache.reserve(_row(sequence), self._cache.valid(_row(sequence)) + 1)
            except CapacityError:
                self.finish(sequence, "length")
                events.append(TokenEvent(sequence=sequence, token=None, finish_reason="length"))
        return events

    def _advance(self, sequence: Sequence, logits: FloatArray) -> TokenEvent:
        """Choose a sequence's next token and see whether it ends there."""
        token = sequence.sampler.choose(logits)
        if sequence.config.logprobs:
            sequence.logprobs.append(log_probability(logits, token))
        if len(sequence.tokens) == sequence.num_prompt:
            sequence.first_token = time.perf_counter()
        sequence.tokens.append(token)
        reason: FinishReason | None = None
        if token in sequence.eos_token_ids:
            reason = "stop"
        elif len(sequence.tokens) >= sequence.max_tokens:
            reason = "length"
        if reason:
            self.finish(sequence, reason)
        return TokenEvent(sequence=sequence, token=token, finish_reason=reason)


def _row(sequence: Sequence) -> int:
    assert sequence.row is not None, "a running sequence has a row"
    return sequence.row


def _common_prefix(first: Tokens[int], second: Tokens[int]) -> int:
    for index, (a, b) in enumerate(zip(first, second, strict=False)):
        if a != b:
            return index
    return min(len(first), len(second))
