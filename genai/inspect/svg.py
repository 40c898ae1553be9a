"""A block as an SVG picture, to stand in a page whose style sheet names its classes."""

from __future__ import annotations

from collections.abc import Sequence

from genai.inspect.blocks import Block, Box, Loop
from genai.inspect.layout import Point, Size, laid_out
from genai.inspect.rendering import rendered

_TITLE_WIDTH, _DETAIL_WIDTH = 7.4, 6.1
"""Pixels of a letter, about: fonts differ from machine to machine."""
_PADDING = 22.0
_LINE = 26.0
_SECOND_LINE = 15.0
_MAX_TITLE, _MAX_DETAIL = 34, 40
_LOOPS: dict[Loop | None, str] = {None: "", "in place": "same memory", "copied": "passed on"}


def picture(block: Block, name: str) -> str:
    """The block drawn; name: what a screen reader says it is."""
    sizes = [_size(box) for box in block.boxes]
    # A loop is laid out as if it went down, beside the operator that writes the cache.
    arrows = [(arrow.target, arrow.source) if arrow.loop else (arrow.source, arrow.target) for arrow in block.arrows]
    loops = [_LOOPS[arrow.loop] for arrow in block.arrows]
    drawing = laid_out(sizes, arrows, {number: _label_width(loop) for number, loop in enumerate(loops) if loop})
    drawn = [(loop, path[::-1] if loop else path) for loop, path in zip(loops, drawing.paths, strict=True) if path]
    return rendered(
        "picture.svg",
        name=name,
        drawing=drawing,
        boxes=list(zip(block.boxes, sizes, drawing.centres, strict=True)),
        arrows=[(loop, _curve(path), path) for loop, path in drawn],
        label_width=_label_width,
        second_line=_SECOND_LINE,
        max_title=_MAX_TITLE,
        max_detail=_MAX_DETAIL,
    )


def _size(box: Box) -> Size:
    title, detail = min(len(box.title), _MAX_TITLE), min(len(box.detail), _MAX_DETAIL)
    width = max(title * _TITLE_WIDTH, detail * _DETAIL_WIDTH) + _PADDING
    return Size(width=width, height=_LINE + (_SECOND_LINE if box.detail else 0))


def _label_width(loop: str) -> float:
    return len(loop) * _DETAIL_WIDTH + 12


def _curve(path: Sequence[Point]) -> str:
    """Through the points: straight down beside boxes, and in an S from rank to rank."""
    (x, y), *rest = path
    parts = [f"M{x:.1f} {y:.1f}"]
    for to_x, to_y in rest:
        if abs(to_x - x) < 0.5:
            parts.append(f"L{to_x:.1f} {to_y:.1f}")
        else:
            bend = (to_y - y) / 2
            parts.append(f"C{x:.1f} {y + bend:.1f} {to_x:.1f} {to_y - bend:.1f} {to_x:.1f} {to_y:.1f}")
        x, y = to_x, to_y
    return "".join(parts)
