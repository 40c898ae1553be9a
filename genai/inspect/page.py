"""A report as one page: nothing in it comes from elsewhere, and it runs no scripts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from genai.inspect.report import GraphReport


@dataclass(frozen=True, slots=True, kw_only=True)
class FusedPattern:
    """What a fusion report says of one pattern: sites that are one operator, sites that are not, and why not."""

    pattern: str
    matched: int
    missed: int
    reasons: tuple[str, ...] = ()


def page(
    report: GraphReport, *, batch: int = 1, length: int = 2048, fusions: Sequence[FusedPattern] | None = None
) -> str:
    """The page. batch, length: the cache that is looked at; fusions: None if they were not looked for."""
    return f"<!doctype html><html lang=en><meta charset=utf-8><title>{escape(report.path.name)}</title></html>"
