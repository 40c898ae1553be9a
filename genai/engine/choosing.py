"""From logits to tokens: each sequence's consumer takes its logits, and what is to be chosen from is sampled together.

A row that brought a draft has logits for several positions: the next one counts if the draft foresaw the token chosen.
"""

from __future__ import annotations

import time
from collections import Counter, abc

import numpy as np

from genai.decoding.logprobs import token_logprob
from genai.decoding.processors import FloatArray
from genai.decoding.sampler import choose
from genai.decoding.threads import Threads
from genai.engine.decode_step import Outcome
from genai.engine.events import Events
from genai.engine.rows import Rows
from genai.engine.scheduler import Pace
from genai.engine.sequence import FinishReason, Sequence, TokenEvent
from genai.errors import GenAIError, NotFiniteError
from genai.metrics import EngineMetrics


class Chooser:
    """Gives sequences their next tokens, and ends those that end with them. Only what ends loses its row."""

    def __init__(
        self, rows: Rows, events: Events, pace: Pace, metrics: EngineMetrics | None, num_threads: int = 1
    ) -> None:
        self._threads = Threads(num_threads)
        self._rows = rows
        self._events = events
        self._pace = pace
        self._metrics = metrics

    def choose(self, outcomes: abc.Sequence[Outcome]) -> None:
        """Choose tokens from what was run, position by position, as far as drafts were right."""
        for outcome in outcomes:
            sequence = outcome.sequence
            sequence.num_computed = min(sequence.num_computed, len(sequence.tokens) - 1)
        accepted: Counter[Sequence] = Counter()
        alive = list(outcomes)
        position = 0
        while alive:
            ready = [each for each in alive if self._is_to_choose(each.sequence, each.logits[position])]
            alive = []
            for outcome, token in zip(ready, self._chosen(ready, position), strict=True):
                sequence = outcome.sequence
                if isinstance(token, GenAIError):
                    self._events.fail(sequence, token)
                    continue
                with self._events.failures_end(sequence):
                    event = self._advance(sequence, outcome.logits[position], token)
                    if event.finish_reason is None and not outcome.draft:
                        self._events.happened_late(event)
                    else:  # of a draft, no token counts behind one that a sink ends the text at
                        self._events.happened(event)
                if position < len(outcome.draft) and outcome.draft[position] == token:
                    accepted[sequence] += 1
                    if not sequence.is_over:
                        alive.append(outcome)
            position += 1
        for outcome in outcomes:
            self._settle_draft(outcome, accepted[outcome.sequence])

    def pick(self, sequence: Sequence) -> int:
        """Choose the next token from the logits that a sequence keeps. Raises: GenAIError."""
        assert sequence.logits is not None, "it has logits"
        logits, sequence.logits = sequence.logits, None
        (token,) = self._chosen([Outcome(sequence=sequence, logits=logits[None])], 0)
        if isinstance(token, GenAIError):
            self._events.fail(sequence, token)
            raise token
        with self._events.failures_end(sequence):
            self._events.happened(self._advance(sequence, logits, token))
        return token

    def _chosen(self, outcomes: abc.Sequence[Outcome], position: int) -> list[int | GenAIError]:
        """The next token of each, or why there is none."""
        logits = [outcome.logits[position] for outcome in outcomes]
        try:
            return list(choose([outcome.sequence.sampler for outcome in outcomes], logits, self._threads))
        except GenAIError as error:
            if len(outcomes) == 1:
                return [error]
            return [self._chosen([outcome], position)[0] for outcome in outcomes]

    def _is_to_choose(self, sequence: Sequence, logits: FloatArray) -> bool:
        """Count the token that was run, and give the logits away; whether a token is to be chosen from them now."""
        sequence.num_computed += 1
        if sequence.is_over:
            return False
        if np.isnan(logits[0]):
            self._events.fail(sequence, NotFiniteError())
            return False
        state = sequence.consumer.take(sequence, logits)
        if state is None:
            return True
        if (reason := state.finish_reason) is not None:
            self._events.end(sequence, reason)
        else:
            sequence.pause(state)
        return False

    def _settle_draft(self, outcome: Outcome, num_accepted: int) -> None:
        """Forget what a row holds of a draft beyond what came true, and learn from it."""
        sequence = outcome.sequence
        if outcome.draft:
            self._rows.truncate(sequence)
        if sequence.drafter is not None:
            is_cut = self._rows.has_states and num_accepted < len(outcome.draft)
            num_again = num_accepted + 1 if is_cut else 0
            num_drafted = sequence.drafter.settle(len(outcome.draft), num_accepted, self._pace.draft_cost, num_again)
            if self._metrics and num_drafted:
                self._metrics.saw_draft(num_drafted, num_accepted)

    def _advance(self, sequence: Sequence, logits: FloatArray, token: int) -> TokenEvent:
        """Add a chosen token to a sequence and see whether it ends there."""
        sequence.tokens.append(token)
        sequence.sampler.accept(token)
        logprob = None
        if sequence.config.logprobs:
            logprob = token_logprob(logits, token, sequence.config.top_logprobs)
            sequence.logprobs.append(logprob)
        now, timeline = time.perf_counter(), sequence.timeline
        if self._metrics and timeline.first_token:
            self._metrics.saw_next_token(now - timeline.last_token)
        elif self._metrics:
            self._saw_first_token(sequence, now)
        timeline.first_token = timeline.first_token or now
        timeline.last_token = now
        reason: FinishReason | None = None
        if token in sequence.eos_token_ids:
            reason = "stop"
        elif len(sequence.tokens) >= sequence.max_tokens:
            reason = "length"
        return TokenEvent(sequence=sequence, token=token, finish_reason=reason, logprob=logprob)

    def _saw_first_token(self, sequence: Sequence, now: float) -> None:
        """A text has its first token; only the first of a request's texts tells how long the request waited for one."""
        assert self._metrics is not None, "who calls has looked"
        assert sequence.job is not None, "what runs belongs to a job"
        if any(each.timeline.first_token for each in sequence.job.sequences):
            self._metrics.saw_tokens(1)
        else:
            self._metrics.saw_first_token(now - sequence.timeline.submitted)
