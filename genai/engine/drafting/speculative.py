"""Drafts taken from the text itself, and how long the next one may be.

A draft of k tokens makes a run cover k more positions; the model's own choice at each position decides how many of them
count, so a draft changes how long a text takes and never what it says.

`PromptLookup` finds the longest end of the text that has occurred before and proposes what followed then: a text that
is edited, summarised or quoted repeats its prompt, a table repeats its form. How much of a proposal comes true depends
above all on how many tokens matched (SmolLM2-135M, first token: of 2 a third, of 4 two thirds, of 16 98 %), so a
proposal is no longer than its match: after a change it grows with what has come true since.

`DraftBudget` bounds what wrong drafts cost. Its unit is a plain decode step. A run that drafts k tokens and accepts a
of them takes k * token_cost longer than a plain step and saves a of them, so with

    balance = share * tokens + accepted - drafted * token_cost  ≥  -1   before and after every run,

n tokens never take longer than (1 + share) * n + 1 plain steps, whatever the text. Credit is kept for one draft of full
length, no more: after text that repeated, other text is slowed by that draft beyond its share. Within these bounds, the
length is the one with the most tokens per time at the recent rate of acceptance; evidence fades with each token,
towards a prior that makes drafts be tried again.
"""

from __future__ import annotations

from collections.abc import Sequence

_SIZES = (8, 4, 2)
"""Ends that are looked up, in tokens. All sizes from 8 to 2 gain no more; without 8, 3 to 8 % of the rate is lost."""
_ALLOWANCE = 1.0
"""Plain steps that the balance may be below zero: what the first draft is paid from."""
_MEMORY = 0.95
"""How much of the evidence is left after each token."""
_PRIOR_ACCEPTED, _PRIOR_TRIED = 0.45, 0.5
"""Half a token's worth of belief that nine drafts in ten come true: one refusal outweighs it."""


class PromptLookup:
    """Continues a text as it went on where its end last occurred.

    Looking up takes the same time however long the text is: each n-gram is put into an index once.
    """

    def __init__(self) -> None:
        self._next: dict[tuple[int, ...], int] = {}  # n-gram → where it was last continued
        self._num_indexed = 0  # length of the text at the last call
        self._tail: tuple[int, ...] = ()  # its last tokens

    def catch_up(self, tokens: Sequence[int], allowance: object) -> bool:
        """Nothing is run."""
        return True

    def propose(self, tokens: Sequence[int], max_tokens: int) -> list[int]:
        """At most max_tokens tokens that may follow, [] if nothing suggests any.

        tokens: the whole text, grown since the last call or rewound, which its length or its last tokens show. A
        proposal may go on into its own copy: periodic text is continued for as long as is asked.
        """
        self._index(tokens)
        for size in _SIZES:
            start = self._next.get(tuple(tokens[-size:]))
            if start is not None:
                return _continued(tokens, start, _matching(tokens, start, max_tokens))
        return []

    def close(self) -> None:
        """Nothing is held."""

    def _index(self, tokens: Sequence[int]) -> None:
        """Add what is new, but for the n-grams that end the text: they would find themselves."""
        known = self._num_indexed
        if known > len(tokens) or tuple(tokens[max(known - _SIZES[0], 0) : known]) != self._tail:
            self._next.clear()
            known = 0
        for end in range(max(known, _SIZES[-1]), len(tokens)):
            for size in _SIZES:
                if size <= end:
                    self._next[tuple(tokens[end - size : end])] = end
        self._num_indexed = len(tokens)
        self._tail = tuple(tokens[-_SIZES[0] :])


def _matching(tokens: Sequence[int], start: int, most: int) -> int:
    """How many tokens before `start` are those at the end, counted up to `most`."""
    count = 0
    while count < most and count < start and tokens[start - 1 - count] == tokens[-1 - count]:
        count += 1
    return count


def _continued(tokens: Sequence[int], start: int, count: int) -> list[int]:
    """`count` tokens from `start`, going on into the copy where the text ends."""
    period = len(tokens) - start
    return [tokens[start + offset % period] for offset in range(count)]


class DraftBudget:
    """How long the next draft may be.

    max_length: most tokens in a draft; share: how much longer than plain decoding text that does not repeat may take;
    num_drafted, num_accepted: tokens so far.
    """

    def __init__(self, max_length: int, share: float = 0.04) -> None:
        self.num_drafted = 0
        self.num_accepted = 0
        self._max_length = max_length
        self._share = share
        self._balance = 0.0
        self._accepted = _PRIOR_ACCEPTED
        self._tried = _PRIOR_TRIED

    def length(self, token_cost: float) -> int:
        """Most tokens for the next draft, 0 to decode plainly.

        token_cost: how much longer a run takes for each further position, in plain decode steps, at least 0.
        """
        chance = self._accepted / self._tried
        best, best_rate = 0, 1.0
        expected, cost, reached = 1.0, 1.0, 1.0
        for length in range(1, self._max_length + 1):
            reached *= chance
            expected += reached
            cost += token_cost
            if expected < best_rate * cost or cost - 1 > self._balance + _ALLOWANCE:
                break
            best, best_rate = length, expected / cost
        return best

    def saw(self, num_drafted: int, num_accepted: int, token_cost: float, num_again: int = 0) -> None:
        """Account for a run: the tokens of its draft (0 for a plain step), and how many of them the model chose too.

        num_again: tokens that have to be run once more, because states are not cut back.
        """
        self.num_drafted += num_drafted
        self.num_accepted += num_accepted
        num_tokens = num_accepted + 1
        self._balance += self._share * num_tokens + num_accepted - (num_drafted + num_again) * token_cost
        self._balance = min(self._balance, self._max_length * token_cost)
        left = _MEMORY**num_tokens
        num_tried = num_accepted + (num_accepted < num_drafted)  # none is tried after the first that is refused
        self._accepted = _PRIOR_ACCEPTED + left * (self._accepted - _PRIOR_ACCEPTED) + num_accepted
        self._tried = _PRIOR_TRIED + left * (self._tried - _PRIOR_TRIED) + num_tried
