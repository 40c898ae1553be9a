"""The cost model's groups: long rows apart from short ones, stable while nothing is gained, never beyond the arena."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genai.runtime.capacity import CapacityPolicy, StepCost
from genai.runtime.layout import Group

COST = StepCost(weights=8e-3, row=4e-3, slot=5e-6)
POLICY = CapacityPolicy(cost=COST)


@pytest.mark.parametrize("needed", [1, 15, 16, 17, 63, 64, 65, 127, 129, 512, 513, 600, 1000, 1025, 5000, 100_000])
def test_buckets_hold_what_is_needed_and_waste_at_most_an_eighth(needed: int) -> None:
    capacity = POLICY.capacity(needed)
    assert needed <= capacity
    assert capacity <= max(1.125 * needed, needed + 15)
    assert capacity % 16 == 0


def test_there_are_few_buckets_on_the_way_to_a_long_row() -> None:
    assert len({POLICY.capacity(n) for n in range(1, 8193)}) <= 64


def test_a_long_row_gets_a_group_of_its_own() -> None:
    needs = dict.fromkeys(range(7), 200) | {7: 4000}
    groups = POLICY.groups(needs, (), 100_000)
    assert groups is not None
    assert [len(group.rows) for group in groups] == [7, 1]
    short, long = groups
    assert short.capacity == 208
    together = COST.of(8, POLICY.capacity(4000))
    assert COST.of_groups(groups) < 0.5 * together
    assert COST.of(7, short.capacity) <= 1.05 * COST.of(7, 208), "the short rows do not pay for the long one"
    assert long.capacity == POLICY.capacity(4000)


def test_similar_rows_share_a_pass_over_the_weights() -> None:
    groups = POLICY.groups(dict(enumerate([100, 150, 200, 250, 300, 350])), (), 100_000)
    assert groups is not None
    assert len(groups) == 1


def test_groups_stay_while_their_rows_fit_and_nothing_is_much_cheaper() -> None:
    current = [Group(capacity=320, rows=(0, 1, 2))]
    assert POLICY.groups({0: 200, 1: 210, 2: 220}, current, 10_000) == current
    assert POLICY.groups({0: 200, 2: 220}, current, 10_000) == [Group(capacity=320, rows=(0, 2))]
    assert POLICY.groups({1: 200, 2: 220}, current, 10_000) == [Group(capacity=320, rows=(2, 1))]
    assert POLICY.groups({0: 9, 1: 9, 2: 9, 3: 300}, current, 10_000) == [Group(capacity=320, rows=(0, 1, 2, 3))]


def test_a_group_shrinks_once_its_long_row_is_gone() -> None:
    current = [Group(capacity=4096, rows=(0, 1, 2, 3))]
    groups = POLICY.groups({0: 100, 1: 100, 2: 100}, current, 100_000)
    assert groups == [Group(capacity=112, rows=(0, 1, 2))]


def test_a_full_arena_is_filled_to_the_last_slot() -> None:
    assert POLICY.groups({0: 65, 1: 65}, (), 130) is not None
    assert POLICY.groups({0: 65, 1: 66}, (), 130) is None


@given(
    needs=st.lists(st.integers(1, 3000), max_size=12),
    old=st.lists(st.tuples(st.integers(1, 3000), st.lists(st.integers(0, 14), max_size=4)), max_size=4),
    num_slots=st.integers(1, 20_000),
)
@settings(max_examples=300, deadline=None)
def test_every_row_gets_what_it_needs_or_nothing_fits(
    needs: list[int], old: list[tuple[int, list[int]]], num_slots: int
) -> None:
    seen: set[int] = set()
    current = []
    for capacity, rows in old:
        members = tuple(row for row in dict.fromkeys(rows) if row not in seen)
        seen.update(members)
        if members:
            current.append(Group(capacity=capacity, rows=members))
    wanted = dict(enumerate(needs))
    groups = POLICY.groups(wanted, current, num_slots)
    if groups is None:
        assert sum(needs) > num_slots
        return
    assert sorted(row for group in groups for row in group.rows) == sorted(wanted)
    assert sum(group.num_slots for group in groups) <= num_slots
    for group in groups:
        assert group.rows
        assert all(wanted[row] <= group.capacity for row in group.rows)
