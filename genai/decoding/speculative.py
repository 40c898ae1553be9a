"""Drafts from the text so far, and how long they may be."""

from __future__ import annotations

from collections.abc import Sequence


class PromptLookup:
    """Foresees that what followed the text's last two tokens before follows them again."""

    def propose(self, tokens: Sequence[int], max_tokens: int) -> list[int]:
        """What followed the last two tokens where they stood before, latest first."""
        for end in range(len(tokens) - 2, 1, -1):
            if list(tokens[end - 2 : end]) == list(tokens[-2:]):
                return list(tokens[end : end + max_tokens])
        return []


class DraftBudget:
    """How long drafts may be."""

    def __init__(self, max_length: int, share: float = 0.04) -> None:
        self.num_drafted = 0
        self.num_accepted = 0
        self._max_length = max_length

    def length(self, token_cost: float) -> int:
        """Most tokens of the next draft."""
        return self._max_length

    def saw(self, num_drafted: int, num_accepted: int, token_cost: float) -> None:
        """Count a step."""
        self.num_drafted += num_drafted
        self.num_accepted += num_accepted
