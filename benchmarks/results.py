"""What a side-by-side run found: as data for JSON, and as Markdown for a page."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from benchmarks.measure import ratios
from benchmarks.protocol import JSON


@dataclass(slots=True, kw_only=True)
class Contestant:
    """One runtime at one precision, and what it took to have it; mean_kl and top1 are against our float32 graph.

    disk_bytes: what it reads; rss, peak: resident bytes after decoding, and at most until then.
    """

    name: str
    version: str
    load_seconds: float
    mean_kl: float | None = None
    top1: float | None = None
    rss: int = 0
    peak: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One thing measured for all: each contestant's seconds, some in each round, the rounds in one order for all.

    kind: "prefill" of a prompt of `length` tokens, a "decode" step of `batch` rows that hold `length` tokens each, or
    "ragged": `batch` requests in full; work: tokens that one of these times is for; disturbance: the share of the
    processors that others took in the worst round; baselines: whom to compare with, where it is not the usual ones.
    """

    title: str
    work: int
    kind: str = "decode"
    length: int = 0
    batch: int = 1
    rounds: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    disturbance: float = 0.0
    baselines: Sequence[str] = ()

    def medians(self) -> dict[str, list[float]]:
        """The median of each round's seconds."""
        return {name: [statistics.median(seconds) for seconds in rounds] for name, rounds in self.rounds.items()}

    def median(self, name: str) -> float:
        """Seconds in the median round."""
        return statistics.median(self.medians()[name])

    def rate(self, name: str) -> float:
        """Tokens per second in the median round."""
        return self.work / self.median(name)

    def best(self, name: str) -> float:
        """The fewest seconds: what is left where nothing disturbed."""
        return min(min(seconds) for seconds in self.rounds[name])


@dataclass(slots=True, kw_only=True)
class Results:
    """A whole run. notes: what was left out, and why."""

    model: str
    machine: Mapping[str, str | int]
    settings: Mapping[str, JSON]
    contestants: list[Contestant] = field(default_factory=list)
    cells: list[Cell] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def as_json(results: Results, baselines: Sequence[str]) -> dict[str, JSON]:
    """Everything, the single rounds included."""
    return {
        "model": results.model,
        "machine": {**results.machine},
        "settings": {**results.settings},
        "contestants": [dataclasses.asdict(each) for each in results.contestants],
        "cells": [
            {
                "title": cell.title,
                "work": cell.work,
                "kind": cell.kind,
                "length": cell.length,
                "batch": cell.batch,
                "baselines": list(cell.baselines),
                "disturbance": cell.disturbance,
                "rounds": {name: [list(seconds) for seconds in rounds] for name, rounds in cell.rounds.items()},
                "median_seconds": {name: cell.median(name) for name in cell.rounds},
                "best_seconds": {name: cell.best(name) for name in cell.rounds},
                "tokens_per_second": {name: cell.rate(name) for name in cell.rounds},
                "ratios": {name: dict(ratios(cell.medians(), name)) for name in cell.baselines or baselines},
            }
            for cell in results.cells
        ],
        "notes": list(results.notes),
    }


def from_json(data: Mapping[str, Any]) -> Results:
    """What `as_json` wrote, without what it worked out."""
    fields = {each.name for each in dataclasses.fields(Cell)}
    return Results(
        model=data["model"],
        machine=data["machine"],
        settings=data["settings"],
        contestants=[Contestant(**each) for each in data["contestants"]],
        cells=[Cell(**{name: cell[name] for name in fields}) for cell in data["cells"]],
        notes=data["notes"],
    )


def as_markdown(results: Results, baselines: Sequence[str]) -> str:
    """Tables to read: first who takes part and how true each is, then one table for each thing measured."""
    machine = results.machine
    parts = [
        f"# {results.model}, side by side",
        f"{machine['cpu']} ({machine['cpu_features']}), {machine['threads']} threads. "
        "Medians of interleaved rounds (best: the fastest single time); “× X” is time over X's time, the median of the "
        "rounds' own ratios: above 1 is slower than X. KL and top-1 agreement are against our float32 graph, on 512 "
        "tokens of English.",
        _contestants(results.contestants),
        *(_section(cell, baselines) for cell in results.cells),
    ]
    if results.notes:
        parts.append("## Notes\n\n" + "\n".join(f"- {note}" for note in results.notes))
    return "\n\n".join(parts) + "\n"


def _contestants(contestants: Sequence[Contestant]) -> str:
    rows = [
        (
            each.name,
            each.version,
            "" if each.mean_kl is None else f"{each.mean_kl:.4f}",
            "" if each.top1 is None else f"{each.top1:.1%}",
            f"{each.load_seconds:.1f}",
            f"{each.disk_bytes / 1e6:.0f}",
            f"{each.rss / 1e6:.0f}",
            f"{each.peak / 1e6:.0f}",
        )
        for each in contestants
    ]
    return markdown_table(("", "version", "mean KL", "top-1", "load s", "disk MB", "memory MB", "peak MB"), rows)


def _section(cell: Cell, baselines: Sequence[str]) -> str:
    """A cell under its title, with a warning if others kept the machine busy."""
    warning = f" (others took up to {cell.disturbance:.0%} of the processors)" if cell.disturbance >= 0.1 else ""
    return f"## {cell.title}{warning}\n\n{_cell(cell, baselines)}"


def _cell(cell: Cell, baselines: Sequence[str]) -> str:
    compared = {name: found for name in cell.baselines or baselines if (found := ratios(cell.medians(), name))}
    unit, per_second = ("s", 1.0) if cell.kind == "ragged" else ("ms", 1e3)
    rows = [
        (
            name,
            f"{cell.median(name) * per_second:.2f}",
            f"{cell.best(name) * per_second:.2f}",
            f"{cell.rate(name):.1f}",
            *(f"{found[name]:.2f}" for found in compared.values()),
        )
        for name in cell.rounds
    ]
    return markdown_table(("", unit, f"best {unit}", "tokens/s", *(f"× {baseline}" for baseline in compared)), rows)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; all columns but the first are numbers."""
    rule = ["---", *("---:" for _ in header[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))
