"""What the verdict of an hour of random load says of what came."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.http_soak import Tally, outcome_of, results


def tally(*, growth: int = 0, wrong: dict[str, int] | None = None) -> Tally:
    resident = [(float(at), 10**9 + (growth if at > 30 else 0)) for at in range(60)]
    return Tally(outcomes=Counter(equal=5), wrong=Counter(wrong or {}), first_token_seconds=[0.5], resident=resident)


@pytest.mark.parametrize(
    ("given", "exit_code", "problems"),
    [
        (tally(), 0, []),
        (tally(growth=10**8), 0, ["memory grew by 100 MB after the first sixth"]),
        (tally(wrong={"lost": 2, "stuck": 0}), 0, ["2 × lost"]),
        (tally(), -9, ["the server ended with -9"]),
    ],
)
def test_the_verdict(given: Tally, exit_code: int, problems: list[str]) -> None:
    row, found = results(given, 64, 60.0, exit_code)
    assert found == problems
    assert row["outcomes"] == {"equal": 5}


def test_errors_by_what_they_are_about() -> None:
    known = {"internal_error": "failed", "context_length_exceeded": "too long", "not_finite": "not finite"}
    assert {code: outcome_of({"code": code, "message": "x"}) for code in known} == known
    assert outcome_of({"code": "other", "message": "x"}) == "other: x"
