"""A block as an SVG picture, to stand in a page whose style sheet names its classes."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from genai.inspect.blocks import Block, Box, Loop
from genai.inspect.layout import Point, Size, laid_out

_TITLE_WIDTH, _DETAIL_WIDTH = 7.4, 6.1
"""Pixels of a letter, about: fonts differ from machine to machine."""
_PADDING = 22.0
_LINE = 26.0
_SECOND_LINE = 15.0
_MARGIN = 10.0
_MAX_TITLE, _MAX_DETAIL = 34, 40
_LOOPS: dict[Loop, str] = {"in place": "same memory", "copied": "passed on"}


def picture(block: Block, name: str) -> str:
    """The block drawn; name: what a screen reader says it is. Every name from the model is escaped."""
    sizes = [_size(box) for box in block.boxes]
    # A loop is laid out as if it went down, beside the operator that writes the cache.
    arrows = [(arrow.target, arrow.source) if arrow.loop else (arrow.source, arrow.target) for arrow in block.arrows]
    lanes = {number: _label_width(arrow.loop) for number, arrow in enumerate(block.arrows) if arrow.loop}
    drawing = laid_out(sizes, arrows, lanes)
    width, height = drawing.width + 2 * _MARGIN, drawing.height + 2 * _MARGIN
    drawn = [(arrow, path) for arrow, path in zip(block.arrows, drawing.paths, strict=True) if path is not None]
    lines = [_arrow(path[::-1], "loop") if arrow.loop else _arrow(path, "arrow") for arrow, path in drawn]
    labels = [_label(arrow.loop, path) for arrow, path in drawn if arrow.loop]
    boxes = [_box(*each) for each in zip(block.boxes, sizes, drawing.centres, strict=True)]
    return (
        f'<svg role="img" aria-label="{clean(name)}" viewBox="{-_MARGIN:g} {-_MARGIN:g} {width:.0f} {height:.0f}" '
        f'width="{width:.0f}" height="{height:.0f}">{"".join([*lines, *boxes, *labels])}</svg>'
    )


def clean(text: str, length: int = 600) -> str:
    """A name from a model as HTML: cut, without what cannot be seen or turns the text around, and escaped."""
    shown = text if len(text) <= length else f"{text[: length - 1]}…"
    return escape("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in shown))


def _size(box: Box) -> Size:
    title, detail = min(len(box.title), _MAX_TITLE), min(len(box.detail), _MAX_DETAIL)
    width = max(title * _TITLE_WIDTH, detail * _DETAIL_WIDTH) + _PADDING
    return Size(width=width, height=_LINE + (_SECOND_LINE if box.detail else 0))


def _box(box: Box, size: Size, centre: Point) -> str:
    x, y = centre
    radius = 5 if box.is_operator else size.height / 2
    first = y + 4.5 - (_SECOND_LINE / 2 if box.detail else 0)
    texts = f'<text x="{x:.1f}" y="{first:.1f}">{clean(box.title, _MAX_TITLE)}</text>'
    if box.detail:
        second = f'<text class="detail" x="{x:.1f}" y="{first + _SECOND_LINE:.1f}">'
        texts += f"{second}{clean(box.detail, _MAX_DETAIL)}</text>"
    return (
        f'<g class="box {box.role}{"" if box.is_operator else " end"}"><title>{clean(box.hint)}</title>'
        f'<rect x="{x - size.width / 2:.1f}" y="{y - size.height / 2:.1f}" width="{size.width:.1f}" '
        f'height="{size.height:.1f}" rx="{radius:g}"/>{texts}</g>'
    )


def _arrow(path: Sequence[Point], kind: str) -> str:
    return f'<path class="{kind}" d="{_curve(path)}"/>{_head(path, kind)}'


def _label_width(loop: Loop) -> float:
    return len(_LOOPS[loop]) * _DETAIL_WIDTH + 12


def _label(loop: Loop, path: Sequence[Point]) -> str:
    """What a loop means, in the middle of its way."""
    (x, y), (_, other_y) = path[(len(path) - 1) // 2], path[len(path) // 2]
    middle, width = (y + other_y) / 2, _label_width(loop)
    return (
        f'<g class="label"><rect x="{x - width / 2:.1f}" y="{middle - 9:.1f}" width="{width:.1f}" height="18" rx="9"/>'
        f'<text class="detail" x="{x:.1f}" y="{middle + 3.5:.1f}">{_LOOPS[loop]}</text></g>'
    )


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


def _head(path: Sequence[Point], kind: str) -> str:
    """The arrow's head: paths end straight up or straight down."""
    (_, before), (x, y) = path[-2:]
    back = -6 if y > before else 6
    return f'<path class="{kind} head" d="M{x:.1f} {y:.1f}l-3.5 {back}h7z"/>'
