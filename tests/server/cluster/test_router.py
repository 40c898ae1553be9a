"""The order in which the router tries replicas, without Ray behind it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import cast

import pytest
from ray.serve.request_router import PendingRequest, RunningReplica

from server.cluster.placement import Placement, hashed
from server.cluster.router import PrefixRouter

pytestmark = [pytest.mark.anyio, pytest.mark.long]


class Router(PrefixRouter):
    """With loads that a test sets."""

    def __init__(self, spill: int) -> None:
        self.loads: dict[str, int] = {}
        self.initialize_state(spill=spill)

    def _load(self, replica: RunningReplica) -> int:
        return self.loads.get(replica.replica_id.unique_id, 0)


def replicas(count: int) -> list[RunningReplica]:
    names = (f"r{number}" for number in range(count))
    return [cast(RunningReplica, SimpleNamespace(replica_id=SimpleNamespace(unique_id=name))) for name in names]


def asked(key: str) -> PendingRequest:
    context = SimpleNamespace(should_backoff=False)
    return cast(PendingRequest, SimpleNamespace(metadata=SimpleNamespace(session_id=key), routing_context=context))


async def tried(router: Router, candidates: list[RunningReplica], key: str) -> list[str]:
    ranks = await router.choose_replicas(candidates, asked(key))
    assert all(len(rank) == 1 for rank in ranks)
    return [rank[0].replica_id.unique_id for rank in ranks]


async def test_a_key_has_its_order_and_a_loaded_replica_is_passed_over() -> None:
    router, some = Router(spill=2), replicas(4)
    order = [f"r{place}" for place in Placement([f"r{n}" for n in range(4)]).order(hashed("key"), 4)]
    assert await tried(router, some, "key") == order
    assert await tried(router, some[::-1], "key") == order, "whatever the order in which Ray tells them"
    router.loads[order[0]] = 2
    assert await tried(router, some, "key") == [order[1], order[0], *order[2:]]


async def test_all_of_many_are_tried_in_the_end() -> None:
    assert sorted(await tried(Router(spill=1), replicas(20), "key")) == sorted(f"r{n}" for n in range(20))


async def test_what_is_kept_somewhere_is_asked_for_there() -> None:
    router = Router(spill=1)
    router.loads["r2"] = 99
    assert (await tried(router, replicas(3), "@r2"))[0] == "r2"
    assert len(await tried(router, replicas(3), "@gone")) == 3, "who has gone is told of by another one"


async def test_without_a_key_two_are_compared() -> None:
    router, some = Router(spill=1), replicas(3)
    request = asked("")
    two, everybody = await router.choose_replicas(some, request)
    assert len(two) == 2
    assert everybody == some
    assert request.routing_context.should_backoff, "or Ray would ask again and again while all are full"
    assert await router.choose_replicas([], None) == [[]]
