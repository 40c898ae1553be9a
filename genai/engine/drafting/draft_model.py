"""A smaller model that foresees tokens for the texts of another one.

Its cache is its own engine's, whose scheduler knows nothing of rows for drafts. So its own texts come first: they take
such rows away, and while there are any nothing is drafted. Nobody waits for it either: two models that draft for each
other would wait for ever. A draft that is not made costs time and changes no text. A long text is run in pieces, with
what other prompts leave of each step's tokens.

States cannot be cut back: they are kept before each draft, and what came true of it is run again if not all of it did.
"""

from __future__ import annotations

from collections import abc
from collections.abc import Callable
from contextlib import AbstractContextManager

import numpy as np

from genai.decoding.processors import FloatArray
from genai.engine.drafting.drafts import Allowance
from genai.errors import CapacityError
from genai.runtime.cache import KVCache
from genai.runtime.runner import Runner

_FEW = 32
"""Tokens that are run as a part of drafting: those that came since the last draft, or a short text."""


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

    def catch_up(self, tokens: abc.Sequence[int], allowance: Allowance) -> bool:
        """Run what the row lacks of a long text, a piece in each step; what is left for `propose` is short."""
        with self._model.unless_busy() as runner:
            if runner is None:
                return False
            self._model.free_ended(runner)
            try:
                row, shared = self._row_for(runner, tokens, len(tokens))
                end = shared + allowance.take(max(len(tokens) - shared - _FEW, 0))
                if shared < end:
                    self._held = list(tokens[:end])
                    runner.prefill(row, tokens[shared:end])
                return len(tokens) - end <= _FEW
            except CapacityError:
                self.free(runner)
                return False

    def propose(self, tokens: abc.Sequence[int], max_tokens: int) -> abc.Sequence[int]:
        """Run what the row does not hold yet, then one token after another; [] where it is busy or its cache full."""
        draft: list[int] = []
        with self._model.unless_busy() as runner:
            if runner is None:
                return draft
            self._model.free_ended(runner)
            try:
                row, logits = self._catch_up(runner, tokens, max_tokens)
                if not self._is_kept(runner.cache, row):
                    return draft
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
        """The row, and the logits [V] that follow `tokens`."""
        row, shared = self._row_for(runner, tokens, len(tokens) + max_tokens)
        self._held = list(tokens)
        return row, runner.prefill(row, tokens[shared:])

    def _row_for(self, runner: Runner, tokens: abc.Sequence[int], room: int) -> tuple[int, int]:
        """The row, and how many of the tokens it holds; what it held beyond them is dropped."""
        if self._row is None:
            self._row = runner.cache.allocate(room)
            self._model.users.add(self)
        limit = min(len(self._held), len(tokens) - 1)
        differs = np.not_equal(self._held[:limit], tokens[:limit])
        shared = int(differs.argmax()) if differs.any() else limit
        shared = self._cut(runner.cache, self._row, shared)
        self._held = self._held[:shared]
        return self._row, shared

    def _is_kept(self, cache: KVCache, row: int) -> bool:
        """Keep the row's states, if it has any, for when the draft is wrong; False if no slot is left for that."""
        cache.drop(row)
        if cache.has_states and cache.num_spare < 2:  # a run alone needs one, too
            return False
        cache.keep(row)
        return True

    def _cut(self, cache: KVCache, row: int, num_tokens: int) -> int:
        """Let the row hold no more than so many tokens; returns how many it holds, maybe fewer."""
        if not cache.can_keep(row, num_tokens):
            kept = cache.num_kept(row)
            if kept is not None and kept <= num_tokens:
                return cache.go_back(row)
            num_tokens = 0
        cache.truncate(row, num_tokens)
        return num_tokens
