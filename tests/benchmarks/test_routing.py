"""The simulated router: policies keep their promises, and known prefixes and loads are counted right."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from benchmarks.routing import (
    BOUND,
    POLICIES,
    BoundedLoads,
    Found,
    LeastLoaded,
    Members,
    Rendezvous,
    Replica,
    Simulation,
    World,
    prompts_of,
    table,
    turns,
)

SMALL = World(replicas=20, conversations=2000, prompts=100, changes=4)


def with_members(policy: Members, count: int) -> Members:
    for replica in range(count):
        policy.join(replica)
    return policy


@pytest.fixture(scope="module")
def found() -> dict[str, Found]:
    return {name: Simulation(SMALL, make(SMALL)).run() for name, make in POLICIES.items()}


def test_the_router_knows_most_and_moves_only_what_has_to(found: dict[str, Found]) -> None:
    router = found["the router"]
    assert all(router.hit_share > other.hit_share for name, other in found.items() if name != "the router")
    assert router.moved_share == router.needed_share
    assert 0 < max(router.moved_share) < 3 / SMALL.replicas
    assert min(found["round robin"].moved_share) > 0.5
    assert found["least loaded"].mean_worst_load < router.mean_worst_load, "which is what knowing costs"


def test_a_run_is_the_same_again(found: dict[str, Found]) -> None:
    again = Simulation(SMALL, POLICIES["the router"](SMALL)).run()
    assert (again.hit_share, again.moved_share) == (found["the router"].hit_share, found["the router"].moved_share)


def test_turns_come_in_their_order() -> None:
    times: dict[int, list[int]] = {}
    last = 0.0
    for now, conversation, turn in turns(World(replicas=3, conversations=50)):
        assert now >= last
        last = now
        times.setdefault(conversation, []).append(turn)
    assert len(times) == 50
    assert all(numbers == list(range(len(numbers))) for numbers in times.values())


def test_without_pressure_all_of_a_conversation_is_known_but_what_is_new() -> None:
    class One(Members):
        def choose(self, key: int, load: Sequence[int]) -> int:
            return 0

    world = World(replicas=1, conversations=30, prompts=1, changes=0, cache_tokens=10**9)
    share = Simulation(world, One()).run().hit_share
    (own,) = prompts_of(world)[1]
    hits = asked = 0
    for number, (_, _, turn) in enumerate(turns(world)):
        length = own + (2 * turn + 1) * world.turn_tokens
        asked += length
        hits += (own if number else 0) if turn == 0 else length - world.turn_tokens
    assert share == hits / asked


def test_a_replica_forgets_what_it_used_longest_ago() -> None:
    replica = Replica(room=10)
    replica.keep(1, 4)
    replica.keep(2, 4)
    replica.keep(1, 5)
    replica.keep(3, 5)
    assert [replica.known(key) for key in (1, 2, 3)] == [5, 0, 5]


def test_bounded_loads_stay_below_their_bound() -> None:
    policy = with_members(BoundedLoads(), 7)
    load = [0] * 7
    for key in range(200):
        load[policy.choose(0, load)] += 1  # type: ignore[attr-defined]
        assert max(load) < BOUND * (key + 1) / 7 + 1
    policy.leave(3)
    load[3] = 0
    assert policy.choose(0, load) != 3  # type: ignore[attr-defined]


def test_the_least_loaded_is_one() -> None:
    policy = with_members(LeastLoaded(), 4)
    assert {policy.choose(key, [3, 1, 2, 1]) for key in range(40)} == {1, 3}  # type: ignore[attr-defined]


def test_a_loaded_replica_gives_to_the_same_other_one() -> None:
    policy = with_members(Rendezvous(spill=2), 5)
    first = policy.choose(7, [0] * 5)  # type: ignore[attr-defined]
    load = [2 if replica == first else 0 for replica in range(5)]
    second = policy.choose(7, load)  # type: ignore[attr-defined]
    assert second != first
    policy.leave(first)
    assert policy.choose(7, [0] * 5) == second, "who also gets it when the first one is lost"  # type: ignore[attr-defined]


def test_the_table_names_all(found: dict[str, Found]) -> None:
    assert all(f"| {name} |" in table(found) for name in POLICIES)
