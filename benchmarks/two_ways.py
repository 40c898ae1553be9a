"""A package as it is built beside a copy that goes another way: what benchmarks of that kind are asked and answer."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.environments import ROOT
from benchmarks.measure import ratios
from benchmarks.results import Cell, markdown_table
from genai import models


def run(
    program: str,
    arguments: Sequence[str],
    *,
    model: str,
    names: tuple[str, str],
    changed: Callable[[Path, Path], Path],
    compared: Callable[[dict[str, Path], int, int | None], list[Cell]],
) -> None:
    """Measure both, print Markdown, keep JSON in benchmarks/results.

    model: if none is named; names: of the built package and of the other; changed: makes a package's other copy;
    compared: measures packages by name in so many rounds, on so many threads.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{program}")
    parser.add_argument("model", nargs="?", default=model)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--threads", type=int)
    chosen = parser.parse_args(arguments)
    package = models.package(chosen.model, precision=chosen.precision, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        packages = dict(zip(names, (package, changed(package, Path(folder) / "other")), strict=True))
        cells = compared(packages, chosen.rounds, chosen.threads)
    (ROOT / "results").mkdir(exist_ok=True)
    found = {cell.title: {name: cell.median(name) for name in cell.rounds} for cell in cells}
    (ROOT / "results" / f"{program}.json").write_text(json.dumps(found, indent=1))
    print(as_markdown(cells, *names))


def as_markdown(cells: Sequence[Cell], built: str, other: str) -> str:
    """A line for each shape: both times, and the first one over the second."""
    rows = [
        (
            cell.title,
            *(f"{cell.median(name) * 1e3:.2f}, {cell.best(name) * 1e3:.2f}" for name in (built, other)),
            f"{ratios(cell.medians(), other)[built]:.2f}",
            f"{cell.disturbance:.0%}",
        )
        for cell in cells
    ]
    head = ("step", f"{built}: ms, best", f"{other}: ms, best", "ratio", "others' share")
    return markdown_table(head, rows)
