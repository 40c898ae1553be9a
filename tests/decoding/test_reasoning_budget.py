"""A budget of reasoning: what may come next, from the beginning of a text to behind its reasoning."""

from __future__ import annotations

import numpy as np
import pytest

from genai.decoding.processors import BoolArray
from genai.decoding.reasoning_budget import ReasoningBudget, ReasoningSpan
from genai.errors import ConfigError

PIECES = ["<think>", "</think>", "</", "think", ">", "<", "a", "\n", "[", "]", "é"]
SPLIT = ReasoningSpan(open=b"<think>", close=b"</think>", end=(2, 3, 4))
WHOLE = ReasoningSpan(open=b"<think>", close=b"</think>", end=(1,))
OTHER = ReasoningSpan(open=b"[", close=b"]", end=(9,))


class Letters:
    """A constraint: after reasoning only "a" may come, three of them at most."""

    def __init__(self) -> None:
        self.text = ""

    def mask(self) -> BoolArray:
        allowed = np.zeros(len(PIECES), np.bool_)
        is_thinking = self.text.startswith("<think>") and "</think>" not in self.text
        allowed[range(len(PIECES)) if is_thinking else [6, *([0] if not self.text else [])]] = True
        return allowed

    @property
    def is_complete(self) -> bool:
        return self.text.endswith("aaa")

    def accept(self, token: int) -> None:
        if not self.mask()[token]:
            raise ConfigError(f"token {token} does not follow")
        self.text += PIECES[token]

    def forced(self) -> list[int]:
        return []

    def rollback(self, num_tokens: int) -> None:
        raise AssertionError("not in these tests")

    def copy(self) -> Letters:
        result = Letters()
        result.text = self.text
        return result


def budget(
    limit: int, *, span: ReasoningSpan = SPLIT, is_begun: bool = False, inner: Letters | None = None
) -> ReasoningBudget:
    return ReasoningBudget(
        limit,
        [span, OTHER],
        begun=span if is_begun else None,
        piece=lambda token: PIECES[token].encode(),
        vocab_size=len(PIECES),
        inner=inner,
    )


def allowed(constraint: ReasoningBudget) -> list[int]:
    return np.flatnonzero(constraint.mask()).tolist()


ALL = list(range(len(PIECES)))


@pytest.mark.parametrize("limit", [0, 1, 5])
@pytest.mark.parametrize("opening", [[], [0], [7, 0], [5, 3, 4]])
@pytest.mark.parametrize("span", [SPLIT, WHOLE])
def test_at_the_budget_the_marker_comes_token_by_token(limit: int, opening: list[int], span: ReasoningSpan) -> None:
    constraint = budget(limit, span=span, is_begun=not opening)
    for token in [*opening, *[6] * limit]:
        assert allowed(constraint) == ALL
        assert constraint.forced() == []
        constraint.accept(token)
    assert constraint.forced() == list(span.end)
    for index, token in enumerate(span.end):
        assert allowed(constraint) == [token]
        assert constraint.forced() == list(span.end[index:])
        with pytest.raises(ConfigError, match=f"budget of {limit} is spent"):
            constraint.accept(6)
        constraint.accept(token)
    for _ in range(9):
        assert (allowed(constraint), constraint.forced()) == (ALL, [])
        constraint.accept(6)


@pytest.mark.parametrize("text", [[6, 0, 6, 6], [5, 6, 6, 6], [6, 5, 3, 4, 6, 6]])
def test_what_does_not_begin_with_the_marker_is_no_reasoning(text: list[int]) -> None:
    constraint = budget(1)
    for token in text:
        assert allowed(constraint) == ALL
        constraint.accept(token)


@pytest.mark.parametrize("end", [[1], [2, 3, 4], [5, 6, 2, 3, 4]])
def test_reasoning_that_ends_in_time_is_left_alone(end: list[int]) -> None:
    constraint = budget(6)
    for token in [0, 6, *end, *[6] * 9]:
        assert allowed(constraint) == ALL
        constraint.accept(token)


def test_the_other_way_to_reason_has_its_own_end() -> None:
    constraint = budget(1)
    for token in (8, 6):
        constraint.accept(token)
    assert allowed(constraint) == [9]


def test_tokens_are_taken_back() -> None:
    constraint = budget(2)
    tokens = [0, 6, 6, 2, 3, 4, 6]
    seen = []
    for token in tokens:
        seen.append(allowed(constraint))
        constraint.accept(token)
    for length in range(len(tokens)):
        for kept in range(length + 1):
            again = budget(2)
            for token in tokens[:length]:
                again.accept(token)
            branch = again.copy()
            again.rollback(length - kept)
            assert allowed(again) == seen[kept]
            assert allowed(branch) == [*seen, ALL][length], "a copy stays where it was"


def test_what_else_binds_the_text_goes_on_behind_reasoning() -> None:
    constraint = budget(2, inner=Letters())
    assert allowed(constraint) == [0, 6]
    for token in (0, 10, 10):
        constraint.accept(token)
    assert (allowed(constraint), constraint.forced()) == ([2], [2])
    for token in (2, 3, 4):
        assert not constraint.is_complete
        constraint.accept(token)
    for _ in range(3):
        assert allowed(constraint) == [6]
        constraint.accept(6)
    assert constraint.is_complete
    with pytest.raises(ConfigError):
        constraint.accept(7)
