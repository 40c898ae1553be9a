"""Where boxes and arrows lie: a layered drawing, everything flowing down.

    1. ranks      a box lies below all that it follows; sources come down to what they are for
    2. bends      an arrow over several ranks gets a bend in each, which keeps a lane free for it
    3. order      within a rank, by the middle of the neighbours above and below in turn; the fewest crossings win
    4. places     as near to the neighbours as the gaps allow (least squares, by pooling)

Source: Sugiyama, Tagawa, Toda: Methods for visual understanding of hierarchical system structures, 1981.
"""

from __future__ import annotations

import math
from bisect import bisect_right, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

Point: TypeAlias = tuple[float, float]

_GAP_X, _GAP_Y = 18.0, 30.0
_BEND_WIDTH = 12.0
_NUM_SWEEPS, _NUM_SETTLING = 24, 12
_STRAIGHT = 8.0
"""How much more an arrow of bends wants to be straight than a box wants to be near its neighbours."""
_MAX_BENDS = 5000


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """Of a box, in pixels."""

    width: float
    height: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawing:
    """width, height: of it all; centres: of each box; paths: each arrow's points, from its box's edge to the other's.

    None stands for an arrow that is not drawn: with more bends than anyone could follow, or from a box to itself.
    """

    width: float
    height: float
    centres: tuple[Point, ...]
    paths: tuple[tuple[Point, ...] | None, ...]


def laid_out(
    sizes: Sequence[Size], arrows: Sequence[tuple[int, int]], lane_widths: Mapping[int, float] | None = None
) -> Drawing:
    """Lay boxes out. An arrow that would close a circle is laid out as if it pointed the other way.

    lane_widths: of arrows, by number, that need more room than a line: for a label.
    """
    ranks = _ranks(len(sizes), arrows)
    graph = _Graph(sizes, ranks)
    widths = lane_widths or {}
    lanes = [graph.add(*arrow, widths.get(number, _BEND_WIDTH)) for number, arrow in enumerate(arrows)]
    graph.order()
    graph.place()
    for lane in lanes:
        graph.straighten(lane or [])
    return graph.drawing(arrows, lanes)


def _ranks(count: int, arrows: Sequence[tuple[int, int]]) -> list[int]:
    """Each box's rank. Arrows that close a circle do not count."""
    after: list[list[int]] = [[] for _ in range(count)]
    for source, target in arrows:
        after[source].append(target)
    order = _finished_order(after)
    position = {box: index for index, box in enumerate(order)}
    ranks = [0] * count
    for box in order:
        for target in after[box]:
            if position[target] > position[box]:
                ranks[target] = max(ranks[target], ranks[box] + 1)
    is_source = [True] * count
    for source, target in arrows:
        if position[target] > position[source]:
            is_source[target] = False
    for box in range(count):
        below = [ranks[target] for target in after[box] if position[target] > position[box]]
        if is_source[box] and below:
            ranks[box] = min(below) - 1
    return ranks


def _finished_order(after: Sequence[Sequence[int]]) -> list[int]:
    """Boxes so that arrows point forward, but for those that close a circle (depth first, without recursion)."""
    state, order = [0] * len(after), []
    for start in range(len(after)):
        pending = [(start, 0)]
        while pending:
            box, index = pending.pop()
            if index == 0:
                if state[box]:
                    continue
                state[box] = 1
            if index < len(after[box]):
                pending += [(box, index + 1), (after[box][index], 0)]
            else:
                order.append(box)
    return order[::-1]


class _Graph:
    """Items in ranks: boxes, and the bends of arrows. Neighbours are in the ranks next to an item's own."""

    def __init__(self, sizes: Sequence[Size], ranks: Sequence[int]) -> None:
        self.sizes = list(sizes)
        self.ranks = list(ranks)
        self.num_boxes = len(sizes)
        self.above: list[list[int]] = [[] for _ in sizes]
        self.below: list[list[int]] = [[] for _ in sizes]
        self.rows: list[list[int]] = [[] for _ in range(max(ranks, default=0) + 1)]
        for box, rank in enumerate(ranks):
            self.rows[rank].append(box)
        self.x = [0.0] * len(sizes)

    def add(self, source: int, target: int, width: float) -> list[int] | None:
        """An arrow's items from top to bottom; None if it cannot be drawn."""
        top, bottom = sorted((source, target), key=lambda box: self.ranks[box])
        num_bends = self.ranks[bottom] - self.ranks[top] - 1
        if num_bends < 0 or len(self.sizes) - self.num_boxes + num_bends > _MAX_BENDS:
            return None
        lane = [top]
        for rank in range(self.ranks[top] + 1, self.ranks[bottom]):
            lane.append(len(self.sizes))
            self.rows[rank].append(len(self.sizes))
            self.sizes.append(Size(width=width, height=0))
            self.ranks.append(rank)
            self.above.append([])
            self.below.append([])
            self.x.append(0.0)
        lane.append(bottom)
        for upper, lower in pairwise(lane):
            self.below[upper].append(lower)
            self.above[lower].append(upper)
        return lane

    def order(self) -> None:
        """Put each rank into the order with the fewest crossings that was seen."""
        best, fewest = [list(row) for row in self.rows], self._crossings()
        for sweep in range(_NUM_SWEEPS):
            neighbours = self.above if sweep % 2 == 0 else self.below
            for row in self.rows if sweep % 2 == 0 else reversed(self.rows):
                place = {item: index for other in self._around(row) for index, item in enumerate(other)}
                keys = {}
                for index, item in enumerate(row):
                    middle = _mean([place[other] for other in neighbours[item]])
                    keys[item] = (index if middle is None else middle, index)
                row.sort(key=keys.__getitem__)
            crossings = self._crossings()
            if crossings < fewest:
                best, fewest = [list(row) for row in self.rows], crossings
        self.rows = best

    def place(self) -> None:
        """Choose each item's x: as near to its neighbours as the order and the gaps allow, chains hanging straight."""
        for sweep in range(_NUM_SWEEPS + _NUM_SETTLING + 1):
            neighbours = (self.above, self.below)[sweep % 2]
            both = _NUM_SWEEPS <= sweep < _NUM_SWEEPS + _NUM_SETTLING
            for row in self.rows if sweep % 2 == 0 else reversed(self.rows):
                self._settle(row, [self._wanted(item, neighbours, both=both) for item in row])

    def straighten(self, lane: list[int]) -> None:
        """Move a lane's bends, within the room that each has, so that as many as possible lie below each other."""
        run: list[int] = []
        low, high = -math.inf, math.inf
        for bend in [*lane[1:-1], None]:
            least, most = (math.inf, -math.inf) if bend is None else self._room(bend)
            if max(low, least) > min(high, most):
                for item in run:
                    self.x[item] = min(max(sum(self.x[other] for other in run) / len(run), low), high)
                run, low, high = [], -math.inf, math.inf
            if bend is not None:
                run.append(bend)
                low, high = max(low, least), min(high, most)

    def _room(self, item: int) -> tuple[float, float]:
        """How far an item may go to the left and to the right before it meets its neighbours in the rank."""
        row = self.rows[self.ranks[item]]
        place = row.index(item)
        before, after = row[max(place - 1, 0) : place], row[place + 1 : place + 2]
        least = max((self.x[each] + self._distance(each, item) for each in before), default=-math.inf)
        most = min((self.x[each] - self._distance(each, item) for each in after), default=math.inf)
        return min(least, self.x[item]), max(most, self.x[item])

    def _distance(self, one: int, other: int) -> float:
        """Between the middles of two neighbours, at least."""
        return (self.sizes[one].width + self.sizes[other].width) / 2 + _GAP_X

    def drawing(self, arrows: Sequence[tuple[int, int]], lanes: Sequence[list[int] | None]) -> Drawing:
        """The finished picture, its upper left corner at (0, 0)."""
        left = min((self.x[item] - self.sizes[item].width / 2 for item in range(len(self.sizes))), default=0)
        right = max((self.x[item] + self.sizes[item].width / 2 for item in range(len(self.sizes))), default=0)
        tops, heights, top = [], [], 0.0
        for row in self.rows:
            tops.append(top)
            heights.append(max((self.sizes[item].height for item in row), default=0))
            top += heights[-1] + _GAP_Y
        middles = [tops[rank] + heights[rank] / 2 for rank in self.ranks]
        paths = [
            None if lane is None else self._path(lane, arrow, left, middles, heights)
            for lane, arrow in zip(lanes, arrows, strict=True)
        ]
        return Drawing(
            width=right - left,
            height=max(top - _GAP_Y, 0),
            centres=tuple((self.x[box] - left, middles[box]) for box in range(self.num_boxes)),
            paths=tuple(paths),
        )

    def _path(
        self, lane: list[int], arrow: tuple[int, int], left: float, middles: Sequence[float], heights: Sequence[float]
    ) -> tuple[Point, ...]:
        top, bottom = lane[0], lane[-1]
        begin, end = self._port(top, lane[1], self.below) - left, self._port(bottom, lane[-2], self.above) - left
        points = [(begin, middles[top] + self.sizes[top].height / 2)]
        for bend in lane[1:-1]:
            x, reach = self.x[bend] - left, heights[self.ranks[bend]] / 2
            points += [(x, middles[bend] - reach), (x, middles[bend] + reach)]
        points.append((end, middles[bottom] - self.sizes[bottom].height / 2))
        return tuple(points if top == arrow[0] else points[::-1])

    def _port(self, box: int, neighbour: int, neighbours: Sequence[Sequence[int]]) -> float:
        """Where on a box's edge an arrow ends: arrows share the edge in the order in which they come."""
        others = sorted(neighbours[box], key=lambda item: self.x[item])
        room = self.sizes[box].width * 0.7
        step = min(room / max(len(others) - 1, 1), 22.0)
        return self.x[box] + (others.index(neighbour) - (len(others) - 1) / 2) * step

    def _around(self, row: list[int]) -> list[list[int]]:
        """The ranks next to a rank."""
        rank = self.ranks[row[0]] if row else 0
        return [self.rows[other] for other in (rank - 1, rank + 1) if 0 <= other < len(self.rows)]

    def _wanted(self, item: int, neighbours: list[list[int]], *, both: bool) -> tuple[float, float]:
        """(where an item would like to be, how much)."""
        others = [*self.above[item], *self.below[item]] if both else neighbours[item]
        middle = _mean([self.x[other] for other in others])
        is_bend = item >= self.num_boxes
        return (self.x[item], 0.1) if middle is None else (middle, _STRAIGHT if is_bend else 1.0)

    def _settle(self, row: list[int], wanted: list[tuple[float, float]]) -> None:
        """Least squares under the gaps between neighbours: what would overlap is pooled and moves as one."""
        offsets = [0.0]
        for one, other in pairwise(row):
            offsets.append(offsets[-1] + self._distance(one, other))
        pools: list[tuple[float, float, int]] = []  # (place of its first item, weight, items)
        for (place, weight), offset in zip(wanted, offsets, strict=False):
            pool = (place - offset, weight, 1)
            while pools and pools[-1][0] > pool[0]:
                before = pools.pop()
                total = before[1] + pool[1]
                pool = ((before[0] * before[1] + pool[0] * pool[1]) / total, total, before[2] + pool[2])
            pools.append(pool)
        places = [place for place, _, count in pools for _ in range(count)]
        for item, place, offset in zip(row, places, offsets, strict=False):
            self.x[item] = place + offset

    def _crossings(self) -> int:
        """How often arrows cross."""
        count = 0
        for upper, lower in pairwise(self.rows):
            place = {item: index for index, item in enumerate(lower)}
            seen: list[int] = []
            for item in upper:
                ends = sorted(place[other] for other in self.below[item])
                count += sum(len(seen) - bisect_right(seen, end) for end in ends)
                for end in ends:
                    insort(seen, end)
        return count


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None
