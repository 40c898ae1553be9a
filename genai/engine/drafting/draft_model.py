"""A smaller model that foresees tokens for the texts of another one.

Its cache is its own engine's, whose scheduler knows nothing of rows for drafts. So its own texts come first: they take
such rows away, and while there are any nothing is drafted. Nobody waits for it either: two models that draft for each
other would wait for ever. A draft that is not made costs time and changes no text.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np

from genai.decoding.processors import FloatArray
from genai.errors import CapacityError
from genai.runtime.runner import Runner


class DraftModel:
    """A model that drafts, with a row of its cache for each sequence that it drafts for.

    unless_busy: a context with the runner, which is one's own for as long as it lasts, or None; it never waits;
    users: who has a row.
    """

    def __init__(self, unless_busy: Callable[[], AbstractContextManager[Runner | None]]) -> None:
        self.unless_busy = unless_busy
        self.users: set[ModelProposer] = set()

    def free_ended(self, runner: Runner) -> None:
        """Free the rows of sequences that ended while the runner was busy; with the runner to oneself."""
        self._free([user for user in self.users if user.has_ended], runner)

    def free_all(self, runner: Runner) -> None:
        """Free every row; with the runner to oneself. Whoever had one begins anew."""
        self._free([*self.users], runner)

    def _free(self, users: abc.Sequence[ModelProposer], runner: Runner) -> None:
        for user in users:
            self.users.remove(user)
            user.free(runner)


class ModelProposer:
    """Drafts a draft model's most probable tokens. has_ended: nothing will be asked of it any more."""

    def __init__(self, model: DraftModel) -> None:
        self.has_ended = False
        self._model = model
        self._row: int | None = None
        self._held: list[int] = []  # the tokens that the row holds

    def propose(self, tokens: abc.Sequence[int], max_tokens: int) -> abc.Sequence[int]:
        """Run what the row does not hold yet, then one token after another; [] where it is busy or its cache full."""
        draft: list[int] = []
        with self._model.unless_busy() as runner:
            if runner is None:
                return draft
            self._model.free_ended(runner)
            try:
                row, logits = self._catch_up(runner, tokens, max_tokens)
                while True:
                    draft.append(int(logits.argmax()))
                    if len(draft) == max_tokens:
                        return draft
                    logits = runner.prefill_chunk(row, draft[-1:])
                    self._held.append(draft[-1])
            except CapacityError:
                self.free(runner)
                return draft

    def close(self) -> None:
        """Free the row, or leave that to who uses the model next."""
        self.has_ended = True
        with self._model.unless_busy() as runner:
            if runner is not None:
                self._model.free_ended(runner)

    def free(self, runner: Runner) -> None:
        """Free the row; with the runner to oneself."""
        if self._row is not None:
            runner.cache.free(self._row)
            self._row, self._held = None, []

    def _catch_up(self, runner: Runner, tokens: abc.Sequence[int], max_tokens: int) -> tuple[int, FloatArray]:
        """The row, and the logits [V] that follow `tokens`; what it holds beyond what they share is dropped."""
        cache = runner.cache
        if self._row is None:
            self._row = cache.allocate(len(tokens) + max_tokens)
            self._model.users.add(self)
        limit = min(len(self._held), len(tokens) - 1)
        differs = np.not_equal(self._held[:limit], tokens[:limit])
        shared = int(differs.argmax()) if differs.any() else limit
        cache.truncate(self._row, shared)
        self._held = list(tokens)
        return self._row, runner.prefill(self._row, tokens[shared:])
