"""How much of a row is kept for layers that see a window: its last tokens, which move down when their room is full.

    base 0     ████████████████▒▒▒·     a row that fits is there as a whole      █ valid   ▒ being written   · free
    base 128   ████████▒▒▒·········     128 tokens are gone, the others have moved to where its room begins

Tokens move by a multiple of the slots that kernels add up at a time, so that all keep their bits, and seldom. A
reserved slot stays where it is. What is gone does not come back: a row can be cut back as long as all that its next
token sees is there (`reaches`); some tokens more than the window are kept for that.
"""

from __future__ import annotations

from dataclasses import dataclass

from genai.config import WindowConfig

_MARGIN = 64
"""Tokens by which a row can always be cut back: what a chat template writes otherwise in the next turn, say."""
_LONG_DRAFT = 64
"""Tokens that a run has room for, however short prompts' pieces are."""
_STEP = 16
"""Capacities are multiples of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowRoom:
    """What a row has room for in the caches of layers with windows.

    window: newest keys that a query sees, itself included; block: what tokens move by a multiple of; longest: positions
    of one run; margin: tokens that are kept beyond the window; reserved_slots: before the tokens.
    """

    window: int
    block: int
    longest: int
    margin: int
    reserved_slots: int = 0

    @classmethod
    def of(cls, config: WindowConfig, prefill_chunk: int, *, spare: int, reserved_slots: int) -> WindowRoom:
        """For prompts' pieces of so many tokens. spare: positions that padding adds to a run."""
        longest = max(prefill_chunk, _LONG_DRAFT) + spare
        return cls(
            window=config.size, block=config.block, longest=longest, margin=_MARGIN, reserved_slots=reserved_slots
        )

    @property
    def slots(self) -> int:
        """Slots that the longest row takes."""
        most = self.reserved_slots + self.window - 1 + self.margin + self.block - 1 + self.longest
        return -(-most // _STEP) * _STEP

    def base(self, num_tokens: int) -> int:
        """The first token that a row of so many has to keep, or a few before it."""
        return max(num_tokens - (self.window - 1) - self.margin, 0) // self.block * self.block

    def reaches(self, num_tokens: int, base: int) -> bool:
        """Whether what follows so many tokens sees none before the base."""
        return not base or num_tokens - (self.window - 1) >= base
