"""The router with a thousand replicas, simulated, beside others: what is known where requests go, and how even load is.

    python -m benchmarks.routing [--replicas 1000] [--conversations 1000000] [--json FILE]

Conversations begin at random with one of many system prompts (a few are common, most are rare: Zipf) and have some
turns with pauses in between. A replica keeps the newest prefixes that fit and forgets the oldest. Meanwhile replicas
fail, with all that they know, and others come. The router's own placement is used (`server/cluster/placement.py`); all
see the true load of each replica at every moment, which no real router does.
"""

from __future__ import annotations

import argparse
import bisect
import heapq
import json
import random
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from server.cluster.placement import Placement, hashed, preferred

CHOICES = 8
BOUND = 1.25
"""Most load over the mean that consistent hashing with bounded loads allows."""
POINTS = 100
"""Places of each replica on its ring."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """What happens. In tokens, seconds, and requests at a time; rows: a replica's, from which on it is loaded."""

    replicas: int = 1000
    conversations: int = 1_000_000
    prompts: int = 10_000
    zipf: float = 1.1
    turns: float = 4.0
    turn_tokens: int = 300
    pause: float = 60.0
    service: float = 5.0
    rows: int = 8
    utilization: float = 0.5
    cache_tokens: int = 120_000
    changes: int = 20
    seed: int = 0


class Policy(Protocol):
    """Says where a turn goes. Replicas are numbers; load: requests at each of all that there ever were."""

    def join(self, replica: int) -> None:
        """A replica comes."""

    def leave(self, replica: int) -> None:
        """A replica has gone."""

    def choose(self, key: int, load: Sequence[int]) -> int:
        """Where a conversation's turn goes. key: 64 bits."""


class Members:
    """The replicas that are there, in no order; each is found, added and removed at once."""

    def __init__(self) -> None:
        self.all: list[int] = []
        self._places: dict[int, int] = {}

    def join(self, replica: int) -> None:
        self._places[replica] = len(self.all)
        self.all.append(replica)

    def leave(self, replica: int) -> None:
        place, last = self._places.pop(replica), self.all.pop()
        if last != replica:
            self.all[place], self._places[last] = last, place


class RoundRobin(Members):
    """One after another."""

    _next = 0

    def choose(self, key: int, load: Sequence[int]) -> int:
        self._next += 1
        return self.all[self._next % len(self.all)]


class LeastLoaded(Members):
    """The least loaded of all, a random one of those."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        self._rng = random.Random(seed)

    def choose(self, key: int, load: Sequence[int]) -> int:
        # The best of 32 is the least loaded of a thousand but for ties that make no difference here.
        some = self.all if len(self.all) <= 32 else [self._rng.choice(self.all) for _ in range(32)]
        least = min(load[replica] for replica in some)
        return self._rng.choice([replica for replica in some if load[replica] == least])


class Rendezvous(Members):
    """The router's own: a key's first choice, and the next one where that is loaded. spill: see `preferred`."""

    def __init__(self, spill: int) -> None:
        super().__init__()
        self._spill = spill
        self._placement: Placement | None = None
        self._names: list[int] = []
        self._choices: dict[int, list[int]] = {}

    def join(self, replica: int) -> None:
        super().join(replica)
        self._placement, self._choices = None, {}

    def leave(self, replica: int) -> None:
        super().leave(replica)
        self._placement, self._choices = None, {}

    def choose(self, key: int, load: Sequence[int]) -> int:
        if self._placement is None:
            self._names = list(self.all)
            self._placement = Placement([str(replica) for replica in self._names])
        choices = self._choices.get(key)
        if choices is None:
            choices = [self._names[place] for place in self._placement.order(key, CHOICES)]
            self._choices[key] = choices
        return preferred(choices, load.__getitem__, self._spill)[0]


class BoundedLoads(Members):
    """Consistent hashing with bounded loads (Mirrokni, Thorup, Zadimoghaddam): along a ring to the first with room."""

    def __init__(self, bound: float = BOUND) -> None:
        super().__init__()
        self._bound = bound
        self._ring: list[tuple[int, int]] = []

    def join(self, replica: int) -> None:
        super().join(replica)
        for number in range(POINTS):
            bisect.insort(self._ring, (hashed(f"{replica} {number}"), replica))

    def leave(self, replica: int) -> None:
        super().leave(replica)
        self._ring = [point for point in self._ring if point[1] != replica]

    def choose(self, key: int, load: Sequence[int]) -> int:
        most = self._bound * (sum(load) + 1) / len(self.all)
        start = bisect.bisect(self._ring, (key, -1))
        for number in range(len(self._ring)):
            replica = self._ring[(start + number) % len(self._ring)][1]
            if load[replica] < most:
                return replica
        raise AssertionError("somebody is below the mean")


class Replica:
    """What one replica knows: the newest prefixes that fit."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._known: OrderedDict[int, int] = OrderedDict()
        self._used = 0

    def known(self, key: int) -> int:
        """Tokens of a prefix that are known."""
        return self._known.get(key, 0)

    def keep(self, key: int, tokens: int) -> None:
        """Know a prefix, and forget the oldest."""
        self._used += tokens - self._known.pop(key, 0)
        self._known[key] = tokens
        while self._used > self._room:
            self._used -= self._known.popitem(last=False)[1]


@dataclass(slots=True, kw_only=True)
class Found:
    """What a policy did. Shares of 1; load: the most loaded replica over the mean, now and then; lost: turns."""

    hit_share: float = 0.0
    worst_load: float = 0.0
    mean_worst_load: float = 0.0
    moved_share: list[float] = field(default_factory=list)
    needed_share: list[float] = field(default_factory=list)
    waiting_share: float = 0.0
    lost: int = 0
    seconds: float = 0.0


def turns(world: World) -> Iterator[tuple[float, int, int]]:
    """(time, conversation, turn) of all turns, in their order."""
    rng = np.random.default_rng(world.seed)
    counts = rng.geometric(1 / world.turns, world.conversations)
    rate = world.replicas * world.rows * world.utilization / world.service  # turns a second
    length = float(counts.sum()) / rate
    starts = rng.uniform(0, length, world.conversations)
    owners = np.repeat(np.arange(world.conversations), counts)
    firsts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    pauses = rng.exponential(world.pause, len(owners))
    pauses[firsts] = 0
    passed = np.cumsum(pauses)
    times = starts[owners] + passed - passed[firsts][owners]
    numbers = np.arange(len(owners)) - firsts[owners]
    for place in np.argsort(times):
        yield float(times[place]), int(owners[place]), int(numbers[place])


def prompts_of(world: World) -> tuple[list[int], list[int]]:
    """(which system prompt each conversation has, how long each prompt is)."""
    rng = np.random.default_rng(world.seed + 1)
    weights = 1 / np.arange(1, world.prompts + 1) ** world.zipf
    chosen = rng.choice(world.prompts, world.conversations, p=weights / weights.sum())
    lengths = np.clip(rng.lognormal(6.5, 0.8, world.prompts), 50, 8000).astype(int)
    return chosen.tolist(), lengths.tolist()


class Simulation:
    """One world under one policy."""

    def __init__(self, world: World, policy: Policy) -> None:
        self._world = world
        self._policy = policy
        self._rng = random.Random(world.seed)
        self._replicas: dict[int, Replica] = {}
        self._load: list[int] = []
        self._ends: list[tuple[float, int]] = []
        self._found = Found()
        for _ in range(world.replicas):
            self._join()

    def run(self) -> Found:
        """All turns, with changes of membership at even distances."""
        world, found, started = self._world, self._found, time.perf_counter()
        chosen, lengths = prompts_of(world)
        hits = asked = waiting = count = 0
        worst: list[float] = []
        expected = int(world.conversations * world.turns)
        for now, conversation, turn in turns(world):
            count += 1
            if world.changes and count % max(expected // (world.changes + 1), 1) == 0:
                self._change()
            self._end_until(now)
            replica = self._policy.choose(_mixed(conversation), self._load)
            waiting += self._load[replica] >= world.rows
            hit, length = self._take(replica, conversation, turn, chosen[conversation], lengths)
            hits, asked = hits + hit, asked + length
            heapq.heappush(self._ends, (now + self._rng.expovariate(1 / world.service), replica))
            if count % max(expected // 500, 1) == 0 and 0.1 < count / expected < 0.8:  # neither filling nor running out
                worst.append(max(self._load) * len(self._replicas) / max(sum(self._load), 1))
        found.hit_share, found.waiting_share = hits / asked, waiting / count
        found.worst_load, found.mean_worst_load = max(worst, default=0.0), sum(worst) / max(len(worst), 1)
        found.seconds = time.perf_counter() - started
        return found

    def _take(self, replica: int, conversation: int, turn: int, prompt: int, lengths: Sequence[int]) -> tuple[int, int]:
        """Answer a turn. (tokens of the prompt that were known, all of them)."""
        own, memory = lengths[prompt], self._replicas[replica]
        length = own + (2 * turn + 1) * self._world.turn_tokens
        hit = max(memory.known(-1 - prompt), min(memory.known(conversation), length))
        memory.keep(-1 - prompt, own)
        memory.keep(conversation, length + self._world.turn_tokens)
        self._load[replica] += 1
        return hit, length

    def _end_until(self, now: float) -> None:
        while self._ends and self._ends[0][0] <= now:
            _, replica = heapq.heappop(self._ends)
            if replica in self._replicas:
                self._load[replica] -= 1

    def _join(self) -> int:
        replica = len(self._load)
        self._load.append(0)
        self._replicas[replica] = Replica(self._world.cache_tokens)
        self._policy.join(replica)
        return replica

    def _change(self) -> None:
        """A replica fails, or another one comes: by turns. What moves is seen on keys of nobody, without load."""
        keys = [_mixed(-1 - number) for number in range(2000)]
        idle = [0] * (len(self._load) + 1)
        before = [self._policy.choose(key, idle) for key in keys]
        changed: int
        if len(self._found.moved_share) % 2 == 0:
            changed = self._rng.choice(sorted(self._replicas))
            self._found.lost += self._load[changed]
            self._load[changed] = 0
            del self._replicas[changed]
            self._policy.leave(changed)
        else:
            changed = self._join()
        after = [self._policy.choose(key, idle) for key in keys]
        self._found.moved_share.append(sum(a != b for a, b in zip(before, after, strict=True)) / len(keys))
        self._found.needed_share.append(sum(changed in pair for pair in zip(before, after, strict=True)) / len(keys))


def _mixed(conversation: int) -> int:
    return hashed(str(conversation))


POLICIES: dict[str, Callable[[World], Policy]] = {
    "the router": lambda world: Rendezvous(world.rows),
    "round robin": lambda world: RoundRobin(),
    "least loaded": lambda world: LeastLoaded(world.seed),
    "bounded loads": lambda world: BoundedLoads(),
}


def table(found: dict[str, Found]) -> str:
    """As a page has it."""
    lines = [
        "| | prompt tokens known | worst load / mean | turns that wait | keys moved by a change | of them needed |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    for name, each in found.items():
        moved = sum(each.moved_share) / max(len(each.moved_share), 1)
        needed = sum(each.needed_share) / max(len(each.needed_share), 1)
        lines.append(
            f"| {name} | {each.hit_share:.1%} | {each.mean_worst_load:.2f} (at most {each.worst_load:.2f}) "
            f"| {each.waiting_share:.2%} | {moved:.2%} | {needed:.2%} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    usual = World()
    parser.add_argument("--replicas", type=int, default=usual.replicas)
    parser.add_argument("--conversations", type=int, default=usual.conversations)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    world = World(replicas=given.replicas, conversations=given.conversations)
    found = {name: Simulation(world, make(world)).run() for name, make in POLICIES.items()}
    print(table(found))
    if given.json:
        data = {"world": asdict(world), **{name: asdict(each) for name, each in found.items()}}
        given.json.write_text(json.dumps(data, indent=1) + "\n")


if __name__ == "__main__":
    main()
