"""Where keys belong: evenly, the same everywhere, and nothing moves that need not."""

from __future__ import annotations

from collections import Counter

from server.cluster.placement import Placement, hashed, preferred

NAMES = [f"replica {number}" for number in range(10)]
KEYS = [f"key {number}" for number in range(2000)]


def firsts(names: list[str]) -> dict[str, str]:
    placement = Placement(names)
    return {key: placement.names[placement.order(hashed(key), 1)[0]] for key in KEYS}


def test_hashes_are_the_same_in_every_process() -> None:
    assert hashed("a key") == 0x14D84D9C4E9F53A9
    assert Placement(["a", "b", "c"]).order(hashed("a key"), 3) == [0, 2, 1]


def test_keys_are_spread_evenly() -> None:
    counts = Counter(firsts(NAMES).values())
    assert counts.keys() == set(NAMES)
    assert max(counts.values()) < 1.35 * len(KEYS) / len(NAMES), "four standard deviations of 200"


def test_each_replica_is_in_each_order_once() -> None:
    placement, key = Placement(NAMES), hashed("some key")
    order = placement.order(key, 10)
    assert sorted(order) == list(range(10))
    assert [placement.order(key, count) for count in (1, 3, 99)] == [order[:1], order[:3], order]


def test_who_goes_gives_its_keys_to_their_second_choices_and_nothing_else_moves() -> None:
    gone = NAMES[3]
    before, after = firsts(NAMES), firsts([name for name in NAMES if name != gone])
    placement = Placement(NAMES)
    for key in KEYS:
        order = [placement.names[place] for place in placement.order(hashed(key), 2)]
        assert after[key] == (order[1] if before[key] == gone else before[key])


def test_a_loaded_replica_is_passed_over_for_the_next() -> None:
    load = {"a": 4, "b": 3, "c": 0}
    assert preferred(["a", "b", "c"], load.__getitem__, spill=5) == ["a", "b", "c"]
    assert preferred(["a", "b", "c"], load.__getitem__, spill=4) == ["b", "a", "c"]
    assert preferred(["a", "b", "c"], load.__getitem__, spill=3) == ["c", "a", "b"]


def test_where_all_are_loaded_it_stays_among_the_first_two() -> None:
    load = {"a": 9, "b": 8, "c": 7}
    assert preferred(["a", "b", "c"], load.__getitem__, spill=1) == ["b", "a", "c"]
    assert preferred(["a"], load.__getitem__, spill=1) == ["a"]
