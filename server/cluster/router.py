"""The part that Ray Serve asks where a request goes. It runs in the proxies, and wherever else there is a handle.

What the door in front of it (`server/cluster/door.py`) has found out of a request comes as its session id.
"""

from __future__ import annotations

import random

from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica

from server.cluster.keys import PINNED
from server.cluster.placement import Placement, hashed, preferred

_CHOICES = 8
"""How many choices a key has; beyond them one replica is as good as another."""


class PrefixRouter(RequestRouter):
    """Sends each conversation to its replica, and what is none to the less loaded of two. spill: see `preferred`."""

    def initialize_state(self, **said: int) -> None:
        """Called by Ray with what the deployment says."""
        self._spill = said["spill"]
        self._placement = Placement(())

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Replicas in the order in which they are to be tried; those of one inner list by their load."""
        if pending_request is None or not candidate_replicas:
            return [_two_of(candidate_replicas)]
        pending_request.routing_context.should_backoff = True  # if none takes it, Ray is to wait before it asks again
        key = pending_request.metadata.session_id
        if not key:
            return [_two_of(candidate_replicas), candidate_replicas]
        return [[replica] for replica in self._in_order(key, candidate_replicas)]

    def _in_order(self, key: str, replicas: list[RunningReplica]) -> list[RunningReplica]:
        names = tuple(replica.replica_id.unique_id for replica in replicas)
        if names != self._placement.names:
            self._placement = Placement(names)
        if key.removeprefix(PINNED) in names:  # what goes on there is nowhere else, however loaded it is
            named = names.index(key.removeprefix(PINNED))
            return [replicas[named], *(each for place, each in enumerate(replicas) if place != named)]
        choices = [replicas[place] for place in self._placement.order(hashed(key), _CHOICES)]
        tried = preferred(choices, self._load, self._spill)
        return [*tried, *(each for each in replicas if each not in tried)] if len(replicas) > _CHOICES else tried

    def _load(self, replica: RunningReplica) -> int:
        return self.replica_queue_len_cache.get(replica.replica_id) or 0


def _two_of(replicas: list[RunningReplica]) -> list[RunningReplica]:
    return random.sample(replicas, min(2, len(replicas)))
