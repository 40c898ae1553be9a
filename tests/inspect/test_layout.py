"""The layered drawing: nothing overlaps, everything flows down, and circles do no harm."""

from __future__ import annotations

import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from genai.inspect.layout import Drawing, Size, laid_out

BOX = Size(width=60, height=20)


def overlaps(drawing: Drawing, sizes: list[Size]) -> list[tuple[int, int]]:
    """Pairs of boxes that lie over each other."""
    found = []
    for one, other in itertools.combinations(range(len(sizes)), 2):
        (x, y), (other_x, other_y) = drawing.centres[one], drawing.centres[other]
        near_x = abs(x - other_x) < (sizes[one].width + sizes[other].width) / 2
        if near_x and abs(y - other_y) < (sizes[one].height + sizes[other].height) / 2:
            found.append((one, other))
    return found


def test_a_chain_hangs_straight_and_a_skip_goes_around() -> None:
    drawing = laid_out([BOX] * 4, [(0, 1), (1, 2), (2, 3), (0, 3)])
    xs, ys = zip(*drawing.centres, strict=True)
    assert list(ys) == sorted(ys)
    assert len(set(ys)) == 4
    assert xs[1] == xs[2]
    around = drawing.paths[3]
    assert around is not None
    for x, y in around[1:-1]:
        hit = [box for box in (1, 2) if abs(xs[box] - x) < 30 and abs(ys[box] - y) < 10]
        assert not hit, "it would cross a box"


def test_sources_come_down_to_what_they_are_for() -> None:
    drawing = laid_out([BOX] * 5, [(0, 1), (1, 2), (2, 3), (4, 3)])
    assert drawing.centres[4][1] == drawing.centres[2][1]


def test_no_crossing_where_none_is_needed() -> None:
    drawing = laid_out([BOX] * 6, [(0, 5), (1, 4), (2, 3)])
    order = sorted(range(3), key=lambda box: drawing.centres[box][0])
    below = sorted(range(3, 6), key=lambda box: drawing.centres[box][0])
    assert [5 - box for box in order] == below


def test_nothing_and_one() -> None:
    assert laid_out([], []).paths == ()
    drawing = laid_out([BOX], [(0, 0)])
    assert (drawing.width, drawing.height, drawing.paths) == (60, 20, (None,))


def test_a_lane_may_be_wide() -> None:
    sizes = [BOX, BOX, BOX]
    (_, _, path) = laid_out(sizes, [(0, 1), (1, 2), (0, 2)], {2: 200.0}).paths
    assert path is not None
    (x, _), (middle, _) = path[1], laid_out(sizes, [(0, 1), (1, 2), (0, 2)], {2: 200.0}).centres[1]
    assert abs(x - middle) >= 30 + 100


ARROWS = st.lists(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=30)


@settings(max_examples=60, deadline=None)
@given(arrows=ARROWS, widths=st.lists(st.floats(10, 200), min_size=12, max_size=12))
def test_any_graph(arrows: list[tuple[int, int]], widths: list[float]) -> None:
    sizes = [Size(width=width, height=20) for width in widths]
    drawing = laid_out(sizes, arrows)
    assert overlaps(drawing, sizes) == []
    for (source, target), path in zip(arrows, drawing.paths, strict=True):
        if source == target:
            assert path is None
            continue
        assert path is not None
        for box, (x, y) in ((source, path[0]), (target, path[-1])):
            assert abs(x - drawing.centres[box][0]) <= sizes[box].width / 2
            assert abs(abs(y - drawing.centres[box][1]) - 10) < 1e-6
        assert all(0 <= x <= drawing.width and 0 <= y <= drawing.height for x, y in path)
        ys = [y for _, y in path]
        assert ys in (sorted(ys), sorted(ys, reverse=True)), "an arrow goes one way"


def test_without_circles_every_arrow_goes_down() -> None:
    arrows = [(a, b) for a, b in itertools.combinations(range(9), 2) if (a * 7 + b * 3) % 4 == 0]
    drawing = laid_out([BOX] * 9, arrows)
    assert all(drawing.centres[a][1] < drawing.centres[b][1] for a, b in arrows)


def test_what_nobody_could_follow_is_left_out() -> None:
    chain = [(box, box + 1) for box in range(120)]
    far = [(0, 120)] * 60
    drawing = laid_out([BOX] * 121, chain + far)
    assert None not in drawing.paths[:120]
    assert None in drawing.paths[120:]
