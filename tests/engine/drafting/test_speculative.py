"""Prompt lookup against its definition, and what drafts cost and gain in a simulation of decoding."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genai.engine.drafting.speculative import DraftBudget, PromptLookup


class TestPromptLookup:
    @pytest.mark.parametrize(
        ("tokens", "expected"),
        [
            ([], []),
            ([1], []),
            ([1, 2], []),
            ([1, 2, 3, 4], []),
            ([1, 2, 3, 9, 2], []),  # one token is no match
            ([1, 2, 3, 4, 9, 1, 2], [3, 4]),  # no longer than the match
            ([7, 1, 2, 3, 4, 5, 6, 9, 7, 1, 2], [3, 4, 5]),
            ([1, 2, 5, 5, 1, 2, 6, 6, 1, 2], [6, 6]),  # the last occurrence
            ([1, 2, 3, 4, 5, 9, 3, 4, 6, 9, 1, 2, 3, 4], [5, 9, 3, 4]),  # a longer match before a later one
            ([1, 2, 1, 2], [1, 2]),
            ([3, 1, 1, 1], [1, 1]),  # into its own copy
        ],
    )
    def test_proposals(self, tokens: list[int], expected: list[int]) -> None:
        assert PromptLookup().propose(tokens, 10) == expected

    def test_at_most_as_many_as_asked(self) -> None:
        assert PromptLookup().propose([1, 2, 3, 4, 1, 2], 1) == [3]
        assert PromptLookup().propose([1, 2, 3, 4, 1, 2], 0) == []

    def test_periodic_text_goes_on_for_as_long_as_is_asked(self) -> None:
        text = [1, 2, 3] * 10
        assert PromptLookup().propose(text, 20) == [1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3, 1, 2]

    @given(st.data())
    @settings(max_examples=100, deadline=None)
    def test_grown_and_rewound_as_if_new(self, data: st.DataObject) -> None:
        """However a text came about, a lookup that followed it proposes what the definition says."""
        lookup, tokens, alphabet = PromptLookup(), list[int](), 0
        for _ in range(data.draw(st.integers(1, 5))):
            if data.draw(st.booleans()):
                tokens, alphabet = tokens[: data.draw(st.integers(0, len(tokens)))], alphabet + 3
            tokens = tokens + data.draw(st.lists(st.integers(alphabet, alphabet + 2), max_size=12))
            most = data.draw(st.integers(0, 12))
            assert lookup.propose(tokens, most) == expected(tokens, most)

    def test_the_index_is_kept(self) -> None:
        """Work for each token does not grow with the text."""

        class Counted(list[int]):
            num_read = 0

            def __getitem__(self, key):  # type: ignore[no-untyped-def]
                found = super().__getitem__(key)
                Counted.num_read += len(found) if isinstance(key, slice) else 1
                return found

        rng, text, lookup = random.Random(0), Counted(), PromptLookup()
        for _ in range(3000):
            text.append(rng.randrange(30))
            lookup.propose(text, 10)
        assert Counted.num_read < 100 * len(text)


def expected(tokens: list[int], most: int) -> list[int]:
    """The definition, looked for from the end."""
    for size in (8, 4, 2):
        for start in range(len(tokens) - 1, size - 1, -1):
            if tokens[start - size : start] == tokens[-size:]:
                match = 0
                while match < min(start, most) and tokens[start - 1 - match] == tokens[-1 - match]:
                    match += 1
                copied = list(tokens)
                for at in range(start, start + match):
                    copied.append(copied[at])
                return copied[len(tokens) :]
    return []


Accepts = Callable[[int], int]
"""Length of a draft to how many of its tokens come true."""


def simulated(budget: DraftBudget, num_tokens: int, token_cost: float, accepts: Accepts) -> float:
    """Plain decode steps that so many tokens take when a draft is to be had at every step."""
    emitted, spent = 0, 0.0
    while emitted < num_tokens:
        length = min(budget.length(token_cost), num_tokens - emitted - 1)
        accepted = accepts(length)
        budget.saw(length, accepted, token_cost)
        emitted += accepted + 1
        spent += 1 + length * token_cost
    return spent


def none(length: int) -> int:
    return 0


def all_of_them(length: int) -> int:
    return length


def ideal(max_length: int, token_cost: float) -> float:
    """Tokens per plain step if every draft comes true."""
    return max((1 + length) / (1 + length * token_cost) for length in (0, max_length))


COSTS = [0.0, 0.01, 0.1, 0.3, 0.6, 0.85, 1.5]


class TestDraftBudget:
    @pytest.mark.parametrize("token_cost", COSTS)
    @pytest.mark.parametrize("share", [0.0, 0.01, 0.04, 0.2])
    def test_drafts_that_never_come_true(self, share: float, token_cost: float) -> None:
        for num_tokens in (10, 100, 1000):
            spent = simulated(DraftBudget(10, share), num_tokens, token_cost, none)
            assert spent <= (1 + share) * num_tokens + 1 + 1e-6

    @given(st.data())
    @settings(max_examples=100, deadline=None)
    def test_the_bound_holds_whatever_comes_true(self, data: st.DataObject) -> None:
        share = data.draw(st.floats(0, 0.2))
        budget = DraftBudget(data.draw(st.integers(1, 16)), share)
        emitted, spent = 0, 0.0
        steps = data.draw(st.lists(st.tuples(st.floats(0, 2), st.floats(0, 1), st.floats(0, 1)), max_size=80))
        for token_cost, found, came_true in steps:
            length = round(budget.length(token_cost) * found)  # a proposal may be shorter than allowed
            accepted = int(length * came_true)
            budget.saw(length, accepted, token_cost)
            emitted += accepted + 1
            spent += 1 + length * token_cost
            assert spent <= (1 + share) * emitted + 1 + 1e-6

    @pytest.mark.parametrize("token_cost", COSTS)
    def test_credit_does_not_pile_up(self, token_cost: float) -> None:
        """A text that has repeated for long and then does not: what follows is slowed by one full draft at most."""
        budget = DraftBudget(10)
        simulated(budget, 5000, token_cost, all_of_them)
        assert simulated(budget, 200, token_cost, none) <= 1.04 * 200 + 1 + 10 * token_cost + 1e-6

    @pytest.mark.parametrize("token_cost", COSTS)
    @pytest.mark.parametrize("max_length", [1, 4, 10])
    def test_periodic_text_reaches_the_ideal(self, max_length: int, token_cost: float) -> None:
        spent = simulated(DraftBudget(max_length), 300, token_cost, all_of_them)
        assert 300 / spent >= 0.8 * ideal(max_length, token_cost)

    @pytest.mark.parametrize("token_cost", COSTS)
    def test_recovers_when_text_begins_to_repeat(self, token_cost: float) -> None:
        budget = DraftBudget(10)
        simulated(budget, 3000, token_cost, none)
        assert simulated(budget, 60, token_cost, all_of_them) <= 60 * 1.04 + 1
        spent = simulated(budget, 200, token_cost, all_of_them)
        assert 200 / spent >= 0.8 * ideal(10, token_cost)

    def test_length_suits_the_rate_of_acceptance(self) -> None:
        """Drafts are as long as pays, and pay more than a fixed length does on all of these texts."""
        gained = {}
        for chance in (0.2, 0.5, 0.8, 0.95):
            rng = random.Random(0)

            def accepts(length: int, chance: float = chance, rng: random.Random = rng) -> int:
                return next((at for at in range(length) if rng.random() > chance), length)

            budget = DraftBudget(10)
            spent = simulated(budget, 4000, 0.15, accepts)
            best = max(_rate(chance, length, 0.15) for length in range(11))
            gained[chance] = 4000 / spent / best
        assert min(gained.values()) > 0.9, gained

    def test_a_position_as_dear_as_a_step_is_not_worth_a_draft(self) -> None:
        assert DraftBudget(10).length(1.0) == 0

    def test_counts(self) -> None:
        budget = DraftBudget(10)
        budget.saw(4, 3, 0.1)
        budget.saw(0, 0, 0.1)
        budget.saw(2, 2, 0.1)
        assert (budget.num_drafted, budget.num_accepted) == (6, 5)


def _rate(chance: float, length: int, token_cost: float) -> float:
    return sum(chance**at for at in range(length + 1)) / (1 + length * token_cost)


class TestTogether:
    """Both over texts whose continuation is known, as the engine uses them."""

    @staticmethod
    def speed(prompt: Sequence[int], answer: Sequence[int], token_cost: float) -> float:
        """Tokens per plain step."""
        lookup, budget = PromptLookup(), DraftBudget(10)
        text, spent, left = list(prompt), 0.0, list(answer)
        while left:
            length = min(budget.length(token_cost), len(left) - 1)
            draft = lookup.propose(text, length) if length else []
            accepted = next((at for at, token in enumerate(draft) if token != left[at]), len(draft))
            budget.saw(len(draft), accepted, token_cost)
            spent += 1 + len(draft) * token_cost
            text += left[: accepted + 1]
            del left[: accepted + 1]
        assert text == [*prompt, *answer]
        return len(answer) / spent

    def test_an_edited_copy(self) -> None:
        """Every twentieth token of the prompt is another: at a cost of 0.15 twice the rate or more."""
        rng = random.Random(0)
        prompt = [rng.randrange(1000) for _ in range(400)]
        answer = [token if at % 20 else 5000 + at for at, token in enumerate(prompt)]
        assert self.speed(prompt, answer, 0.15) > 2

    def test_text_full_of_baits(self) -> None:
        """Every pair of tokens has occurred before and goes on in another way than then."""
        walk = _baits(random.Random(0))
        prompt, answer = [next(walk) for _ in range(500)], [next(walk) for _ in range(500)]
        for token_cost in (0.05, 0.15, 0.4):
            assert self.speed(prompt, answer, token_cost) >= 1 / (1.04 + 1 / 500)

    def test_periodic_text(self) -> None:
        assert self.speed([], [1, 2, 3, 4] * 100, 0.15) >= 0.8 * ideal(10, 0.15)


def _baits(rng: random.Random) -> Iterator[int]:
    """Tokens out of few, never what followed the last two the last time."""
    last: dict[tuple[int, int], int] = {}
    before, here = 0, 1
    while True:
        token = rng.choice([token for token in range(6) if token != last.get((before, here))])
        last[before, here] = token
        before, here = here, token
        yield token
