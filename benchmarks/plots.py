"""Plots of a side-by-side run, as SVG; drawn by matplotlib, which nothing else here needs.

python -m benchmarks.plots RESULTS.json FOLDER      draws a run that was kept
"""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.results import Cell, Results, from_json

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NEEDS = "no plots: they need matplotlib (pip install matplotlib)"
KL_FLOOR = 1e-5
"""Divergences below this are rounding: drawn here, so that a logarithmic axis can show them."""

_MARKERS = "osD^vPX*"


def can_draw() -> bool:
    """Whether matplotlib is here."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(results: Results, folder: Path, suffix: str = "svg") -> list[Path]:
    """Write a plot of everything that was measured; returns the files. Raises: ImportError without matplotlib."""
    import matplotlib as mpl

    folder.mkdir(parents=True, exist_ok=True)
    drawn = []
    with mpl.rc_context({"svg.hashsalt": "side-by-side", "font.size": 10, "axes.grid": True, "grid.alpha": 0.3}):
        for name, plot in _PLOTS.items():
            if figure := plot(results):
                path = folder / f"{results.model}-{name}.{suffix}"
                figure.savefig(path, dpi=100, bbox_inches="tight")
                drawn.append(path)
    return drawn


def decode_plot(results: Results) -> Figure | None:
    """Milliseconds of a decode step over the context length, a panel for each batch size."""
    cells = _of_kind(results, "decode")
    batches = sorted({cell.batch for cell in cells})
    if not batches:
        return None
    columns = 2 if len(batches) == 4 else min(len(batches), 3)
    rows = math.ceil(len(batches) / columns)
    figure = _figure(4.6 * columns + 2.4, 3.9 * rows + 0.4)
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).flat
    for axes, batch in zip(panels, batches, strict=False):
        of_batch = [cell for cell in cells if cell.batch == batch]
        _lines(axes, of_batch, results, lambda cell, name: cell.median(name) * 1e3)
        axes.set(title=f"batch {batch}", xlabel="context (tokens)", yscale="log")
        _plain_numbers(axes.yaxis)
    for axes in list(figure.axes)[len(batches) :]:
        axes.set_visible(False)
    for axes in figure.axes[::columns]:
        axes.set_ylabel("decode step (ms)")
    _finish(figure, f"{results.model}: decode step, lower is better")
    return figure


def prefill_plot(results: Results) -> Figure | None:
    """Prompt tokens per second over the prompt length."""
    cells = _of_kind(results, "prefill")
    if not cells:
        return None
    figure = _figure(7.0, 4.2)
    axes = figure.subplots()
    _lines(axes, cells, results, Cell.rate)
    axes.set(xlabel="prompt (tokens)", ylabel="prefill (tokens/s)", ylim=(0, None))
    _finish(figure, f"{results.model}: prefill, higher is better")
    return figure


def ragged_plot(results: Results) -> Figure | None:
    """Generated tokens per second over all ragged requests, a bar each."""
    cells = _of_kind(results, "ragged")
    if not cells:
        return None
    cell = cells[-1]
    names = list(cell.rounds)[::-1]
    figure = _figure(7.0, 1.2 + 0.4 * len(names))
    axes = figure.subplots()
    rates = [cell.rate(name) for name in names]
    bars = axes.barh(names, rates, color=[_style(results, name)["color"] for name in names], zorder=2)
    axes.bar_label(bars, fmt="%.1f", padding=3)
    axes.set(xlabel="generated tokens/s", xlim=(0, max(rates) * 1.12))
    axes.grid(visible=False, axis="y")
    ours = "ours all at once, peers one after another"
    axes.set_title(f"{results.model}: {cell.batch} ragged requests, {ours}", fontsize=10, loc="right")
    return figure


def fidelity_plot(results: Results) -> Figure | None:
    """Divergence from float32 over the milliseconds of a decode step at the smallest batch and shortest context."""
    cells = sorted(_of_kind(results, "decode"), key=lambda cell: (cell.batch, cell.length))
    known = [each for each in results.contestants if each.mean_kl is not None]
    points = [each for each in known if cells and each.name in cells[0].rounds]
    if not points:
        return None
    figure = _figure(7.0, 4.2)
    axes = figure.subplots()
    for each in points:
        milliseconds, divergence = cells[0].median(each.name) * 1e3, max(each.mean_kl or 0.0, KL_FLOOR)
        style = {**_style(results, each.name), "linestyle": "none", "markersize": 9, "alpha": 0.75}
        axes.plot([milliseconds], [divergence], label=each.name, **style)
    axes.set(xlim=(0, None), yscale="log", ylim=(KL_FLOOR / 2, None))
    axes.set_xlabel(f"decode step at batch {cells[0].batch}, context {cells[0].length} (ms)")
    axes.set_ylabel(f"mean KL to float32 (nats; {KL_FLOOR:g} stands for less, too)")
    _finish(figure, f"{results.model}: faster is left, truer is down")
    return figure


_PLOTS: dict[str, Callable[[Results], Figure | None]] = {
    "decode": decode_plot,
    "prefill": prefill_plot,
    "ragged": ragged_plot,
    "fidelity": fidelity_plot,
}


def _of_kind(results: Results, kind: str) -> list[Cell]:
    return [cell for cell in results.cells if cell.kind == kind]


def _figure(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _lines(axes: Axes, cells: Sequence[Cell], results: Results, value: Callable[[Cell, str], float]) -> None:
    """A line over the cells' lengths for each contestant; a length that one could not do is left out of its line."""
    ordered = sorted(cells, key=lambda cell: cell.length)
    for name in dict.fromkeys(name for cell in ordered for name in cell.rounds):
        able = [cell for cell in ordered if name in cell.rounds]
        values = [value(cell, name) for cell in able]
        axes.plot([cell.length for cell in able], values, label=name, **_style(results, name))
    axes.set_xscale("log", base=2)
    _ticks(axes, [cell.length for cell in ordered])


def _ticks(axes: Axes, lengths: Iterable[int]) -> None:
    marks = sorted(set(lengths))
    axes.set_xticks(marks, [f"{mark:,}" for mark in marks])
    axes.minorticks_off()


def _plain_numbers(axis: object) -> None:
    """Ticks at 1, 2 and 5 times powers of ten, as plain numbers."""
    from matplotlib.axis import Axis
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    assert isinstance(axis, Axis)
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _style(results: Results, name: str) -> dict[str, Any]:
    """A contestant's colour and marker, the same in all plots; ours have a full line."""
    index = [each.name for each in results.contestants].index(name)
    line = "-" if name.startswith("ours") else "--"
    return {"color": f"C{index % 10}", "marker": _MARKERS[index % len(_MARKERS)], "linestyle": line}


def _finish(figure: Figure, title: str) -> None:
    """Title and one legend for all panels, beside them."""
    figure.suptitle(title, fontsize=11)
    entries: dict[str, Artist] = {}
    for axes in figure.axes:
        handles, labels = axes.get_legend_handles_labels()
        entries.update(zip(labels, handles, strict=True))
    figure.legend(list(entries.values()), list(entries), loc="outside right center")


def main(arguments: Sequence[str]) -> int:
    """Draw a kept run; the exit code says whether that could be done."""
    if len(arguments) != 2 or not can_draw():
        print(NEEDS if len(arguments) == 2 else __doc__, file=sys.stderr)
        return 2
    source, folder = map(Path, arguments)
    for path in draw(from_json(json.loads(source.read_text())), folder):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
