"""Where drafts come from: a grammar that leaves no choice, the text so far, or a smaller model.

A draft never changes a text: its tokens are run together with the newest one, and each counts only if the token chosen
before it is the one that the draft foresaw (arXiv 2211.17192; a token is drawn from the model's own distribution with
the sequence's own random stream, which accepts a foreseen token as often as the accept-or-resample scheme does).
"""

from __future__ import annotations

import logging
from collections import abc
from dataclasses import dataclass
from typing import Protocol

from genai.engine.drafting.speculative import DraftBudget
from genai.errors import GenAIError

_log = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Allowance:
    """Tokens of prompts that may still be run in this step, those of models that draft among them."""

    num_tokens: int

    def take(self, wanted: int) -> int:
        """As many tokens as are wanted, or as there are; nobody else has them."""
        taken = min(wanted, self.num_tokens)
        self.num_tokens -= taken
        return taken


class Proposer(Protocol):
    """Foresees tokens."""

    def catch_up(self, tokens: abc.Sequence[int], allowance: Allowance) -> bool:
        """Run what a text has beyond what is known of it, within what is allowed; whether it can be gone on with."""
        ...

    def propose(self, tokens: abc.Sequence[int], max_tokens: int) -> abc.Sequence[int]:
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

    def draft(
        self, tokens: abc.Sequence[int], max_tokens: int, token_cost: float, allowance: Allowance
    ) -> abc.Sequence[int]:
        """The next draft; token_cost: what one more position costs in a run, as a share of a plain step.

        Where states are not cut back it is twice that: what came true of a wrong draft is run again.
        """
        length = min(self.budget.length(token_cost), max_tokens)
        draft: abc.Sequence[int] = []
        if length > 0 and not self._is_broken:
            try:
                if self._proposer.catch_up(tokens, allowance):
                    draft = self._proposer.propose(tokens, length)
            except GenAIError as error:
                _log.warning("a text goes on without drafts: %s", error)
                self._is_broken = True
        self._is_pending = bool(draft)
        return draft

    def settle(self, num_run: int, num_accepted: int, token_cost: float, num_again: int = 0) -> int:
        """Learn what came of the last draft, of which `num_run` tokens were run; returns how many were its own.

        num_again: tokens that have to be run once more for it.
        """
        num_drafted = num_run if self._is_pending else 0  # or the grammar's
        self._is_pending = False
        self.budget.saw(num_drafted, num_accepted if num_drafted else 0, token_cost, num_again if num_drafted else 0)
        return num_drafted

    def close(self) -> None:
        """Free what the proposer holds."""
        self._proposer.close()
