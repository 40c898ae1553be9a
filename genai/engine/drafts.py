"""Where drafts come from: a grammar that leaves no choice, the text so far, or a smaller model.

A draft never changes a text: its tokens are run together with the newest one, and each counts only if the token chosen
before it is the one that the draft foresaw (arXiv 2211.17192; a token is drawn from the model's own distribution with
the sequence's own random stream, which accepts a foreseen token as often as the accept-or-resample scheme does).
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from collections.abc import Sequence as List
from typing import Protocol

import numpy as np

from genai.decoding.processors import FloatArray
from genai.decoding.speculative import DraftBudget, PromptLookup
from genai.errors import CapacityError, ConfigError, GenAIError
from genai.runtime.runner import Runner

_log = logging.getLogger(__name__)


class Proposer(Protocol):
    """Foresees tokens."""

    def propose(self, tokens: List[int], max_tokens: int) -> List[int]:
        """What may follow, at most so many tokens; [] for no idea."""
        ...

    def close(self) -> None:
        """The text has ended: free what is held for it."""
        ...


class Drafter:
    """One sequence's drafts, no longer than they have been worth."""

    def __init__(self, proposer: Proposer, max_length: int) -> None:
        self.budget = DraftBudget(max_length)
        self._proposer = proposer
        self._is_pending = False
        self._is_broken = False

    def draft(self, tokens: List[int], max_tokens: int, token_cost: float) -> List[int]:
        """The next draft; token_cost: what one more position costs in a run, as a share of a plain step."""
        length = min(self.budget.length(token_cost), max_tokens)
        draft: List[int] = []
        if length > 0 and not self._is_broken:
            try:
                draft = self._proposer.propose(tokens, length)
            except GenAIError as error:
                _log.warning("a text goes on without drafts: %s", error)
                self._is_broken = True
        self._is_pending = bool(draft)
        return draft

    def settle(self, num_run: int, num_accepted: int, token_cost: float) -> int:
        """Learn what came of the last draft, of which `num_run` tokens were run; returns how many were its own."""
        num_drafted = num_run if self._is_pending else 0  # or the grammar's
        self._is_pending = False
        self.budget.saw(num_drafted, num_accepted if num_drafted else 0, token_cost)
        return num_drafted

    def close(self) -> None:
        """Free what the proposer holds."""
        self._proposer.close()


class LookupProposer(PromptLookup):
    """Drafts from the text itself."""

    def close(self) -> None:
        """Nothing is held."""


class DraftModel:
    """A smaller model with the same vocabulary, whose cache has a row for each sequence that it drafts for.

    alone: makes others who use the runner wait. Raises: ConfigError once the model is closed or lent.
    """

    def __init__(self, runner: Runner, alone: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
        self.runner = runner
        self.alone = alone

    def proposer(self) -> ModelProposer:
        """For one sequence."""
        return ModelProposer(self)


class ModelProposer:
    """Drafts a draft model's most probable tokens."""

    def __init__(self, model: DraftModel) -> None:
        self._model = model
        self._row: int | None = None
        self._held: list[int] = []  # the tokens that the row holds

    def propose(self, tokens: List[int], max_tokens: int) -> List[int]:
        """Run what the row does not hold yet, then one token after another; [] where its cache is full."""
        draft: list[int] = []
        with self._model.alone():
            try:
                row, logits = self._catch_up(tokens, max_tokens)
                while True:
                    draft.append(int(logits.argmax()))
                    if len(draft) == max_tokens:
                        return draft
                    logits = self._model.runner.prefill_chunk(row, draft[-1:])
                    self._held.append(draft[-1])
            except CapacityError:
                self._free()
                return draft

    def close(self) -> None:
        """Free the row."""
        if self._row is not None:
            with contextlib.suppress(ConfigError), self._model.alone():  # of a closed model all is free
                self._free()

    def _free(self) -> None:
        if self._row is not None:
            self._model.runner.cache.free(self._row)
            self._row, self._held = None, []

    def _catch_up(self, tokens: List[int], max_tokens: int) -> tuple[int, FloatArray]:
        """The row, and the logits [V] that follow `tokens`; what it holds beyond what they share is dropped."""
        cache = self._model.runner.cache
        if self._row is None:
            self._row = cache.allocate(len(tokens) + max_tokens)
        limit = min(len(self._held), len(tokens) - 1)
        differs = np.not_equal(self._held[:limit], tokens[:limit])
        shared = int(differs.argmax()) if differs.any() else limit
        cache.truncate(self._row, shared)
        self._held = list(tokens)
        return self._row, self._model.runner.prefill(self._row, tokens[shared:])
