"""The cost model's groups: long rows apart from short ones, stable while nothing is gained, never beyond the arena."""

from __future__ import annotations

import itertools

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


@given(
    needs=st.lists(st.integers(1, 600), min_size=1, max_size=8),
    share=st.floats(1.0, 3.0),
    weights=st.floats(1e-4, 1e-1),
)
@settings(max_examples=200, deadline=None)
def test_no_other_cut_within_the_arena_is_cheaper(needs: list[int], share: float, weights: float) -> None:
    policy = CapacityPolicy(cost=StepCost(weights=weights, row=4e-3, slot=5e-6))
    num_slots = int(share * sum(needs))
    capacities = sorted(map(policy.capacity, needs))
    costs = []
    for cuts in itertools.product([False, True], repeat=len(needs) - 1):
        ends = [*(end for end, is_cut in enumerate(cuts, start=1) if is_cut), len(needs)]
        sizes = [end - start for start, end in zip([0, *ends], ends, strict=False)]
        parts = [(size, capacities[end - 1]) for size, end in zip(sizes, ends, strict=True)]
        if sum(size * capacity for size, capacity in parts) <= num_slots:
            costs.append(sum(policy.cost.of(size, capacity) for size, capacity in parts))
    groups = policy.groups(dict(enumerate(needs)), (), num_slots)
    assert groups is not None
    if costs:
        assert policy.cost.of_groups(groups) == pytest.approx(min(costs))


def test_memory_that_is_short_is_not_paid_for_in_passes_when_fewer_rows_do_more() -> None:
    """Thirty-two ragged rows fill an arena: squeezed in they take 14 passes a step, two thirds of them take one."""
    policy = CapacityPolicy(cost=StepCost(weights=1e-3, row=1e-5, slot=1e-8))
    needs = [40 + 7 * (index * 11 % 32) for index in range(32)]
    num_slots = sum(needs) + 300
    squeezed = policy.groups(dict(enumerate(needs)), (), num_slots)
    assert squeezed is not None
    count = policy.num_worth_running(needs, num_slots)
    chosen = policy.groups(dict(enumerate(needs[:count])), (), num_slots)
    assert chosen is not None
    assert count / policy.cost.of_groups(chosen) > 2 * len(needs) / policy.cost.of_groups(squeezed)
    assert policy.num_worth_running(needs, 10 * num_slots) == 32


def test_who_comes_hardly_slows_down_those_who_run() -> None:
    policy = CapacityPolicy(cost=StepCost(weights=1e-3, row=1e-5, slot=1e-8))
    needs = [40 + 7 * (index * 11 % 32) for index in range(32)]
    assert not policy.has_room(needs, sum(needs) + 300)
    assert policy.has_room(needs[:18], sum(needs) + 300)
    assert policy.has_room(needs, 10 * sum(needs))
    assert not policy.has_room([131, 5], 130)


def test_all_run_where_none_is_spared_a_pass() -> None:
    assert POLICY.num_worth_running([100, 4000, 90, 110], 100_000) == 4, "a long row is no matter of memory"
    assert POLICY.num_worth_running([65, 65], 130) == 2, "one after the other they would take as many passes"
    assert POLICY.num_worth_running([65, 66], 130) == 1
    assert POLICY.num_worth_running([131, 5], 130) == 0, "not even the first"
    for count in range(1, 40):
        assert POLICY.num_worth_running([130] + [131] * count, 130) == 1, "nobody but the first"


def test_what_is_left_of_a_full_arena_is_shared_out() -> None:
    """Otherwise every token would bind the rows anew."""
    groups = POLICY.groups({0: 500, 1: 481}, (), 1001)
    assert groups == [Group(capacity=510, rows=(0,)), Group(capacity=491, rows=(1,))]


@pytest.mark.parametrize("num_slots", [1000, 200, 140, 131])
def test_rows_have_their_least_and_spare_slots_however_short_memory_is(num_slots: int) -> None:
    policy = CapacityPolicy(least=65, spare=1)
    groups = policy.groups({0: 3, 1: 20, 2: 65}, (), num_slots)
    assert groups is None if num_slots < 65 + 65 + 66 else all(group.capacity >= 65 for group in groups or ())
    two = policy.groups({0: 3, 1: 65}, (), num_slots)
    assert two is not None
    assert {row: min(group.capacity, 66) for group in two for row in group.rows}[1] == 66
    assert policy.capacity(3) == policy.capacity(64) == 80
