"""`genai conformance`: what the installed runtime does with each operator that generation stands on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from genai.cli import options
from genai.cli.bars import bars
from genai.cli.table import table
from genai.errors import ConfigError

if TYPE_CHECKING:
    from genai.conformance.check import Matrix
    from genai.conformance.report import Line


def conformance(
    *,
    package: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Only the operators of this package, or of an .onnx file.")
    ] = None,
    provider: Annotated[Literal["cpu", "cuda"], typer.Option(help="Where to try them.")] = "cpu",
    only: Annotated[str, typer.Option(metavar="TEXT", help="Only rows with this in their name.")] = "",
    timings: Annotated[
        bool, typer.Option("--timings", help="Also how time grows with capacity and valid length; noisy.")
    ] = False,
    html: Annotated[Path | None, typer.Option(metavar="FILE", help="Also write the matrix as a page.")] = None,
    json_output: options.Json = False,
) -> None:
    """Try each operator that generation stands on.

    Has it a kernel, is it right, does it write in place? Every input and attribute, opset and type has a row; each is
    compared with onnx.reference or NumPy. Rows run in a process of their own: one that crashes is told of as such.
    """
    from genai.conformance import all_cases
    from genai.conformance.check import check
    from genai.conformance.package import cases_of
    from genai.conformance.report import as_json, page

    cases, unknown = (all_cases(), []) if package is None else cases_of(package)
    cases = [case for case in cases if only in case.name]
    if not cases:
        raise ConfigError(
            f"no row {f'has {only!r} in its name' if only else f'is about an operator of {package}'}; "
            "genai conformance without options shows all"
        )
    with bars() as progress:
        matrix = check(
            cases, provider, timings=timings, unknown=unknown,
            done=lambda number: progress("trying", number, len(cases)),
        )  # fmt: skip
    if html is not None:
        try:
            html.write_text(page(matrix), encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"--html {html} cannot be written: {error.strerror}") from None
    print(json.dumps(as_json(matrix), indent=2) if json_output else _shown(matrix))


def _shown(matrix: Matrix) -> str:
    from genai.conformance.report import facts, lines

    parts = ["\n".join(f"{name}: {value}" for name, value in facts(matrix).items())]
    parts += [f"{name}\n{_operator(its, has_timings=matrix.has_timings)}" for name, its in lines(matrix)]
    if matrix.unknown:
        parts.append(f"no rows for: {', '.join(matrix.unknown)}")
    if matrix.has_timings:
        parts.append("Times are ratios of medians within one run, interleaved, of one thread: believe factors of two.")
    return "\n\n".join(parts)


def _operator(lines: Sequence[Line], *, has_timings: bool) -> str:
    """One operator's lines, below what they have in common, as wide as the terminal. All of what the runtime said is in
    the JSON and on the page.
    """
    from genai.conformance.report import HEADER

    has_caches = any(line.result.loop for line in lines)
    grown = ("capacity", "valid") if has_timings and any(line.result.growth for line in lines) else ()
    header = [*HEADER[1 : 6 if has_caches else 5], *(f"{8 if name == 'capacity' else 32} × {name}" for name in grown)]
    rows = [
        [*line.cells[1 : 6 if has_caches else 5], *(_ratio(line.result.growth.get(name)) for name in grown)]
        for line in lines
    ]
    # What a runtime says is as long as it likes: it is kept out of the widths of what stands behind it.
    for row, line in zip(rows, lines, strict=True):
        if line.result.error is None:
            row[3:] = ["", *([""] * (len(row) - 4))]
    first, *rest = table(header, rows).split("\n")
    shown, before = [f"  {first}"], ""
    for text, line in zip(rest, lines, strict=True):
        if line.what != before:
            shown.append(line.what)
            before = line.what
        shown.append(f"  {text}" if line.result.error is not None else f"  {text}  {line.result.message}")
    width = shutil.get_terminal_size().columns
    return "\n".join(text if len(text) <= width else f"{text[: width - 1]}…" for text in shown)


def _ratio(growth: float | None) -> str:
    return "" if growth is None else f"{growth:.1f} ×"
