"""`genai conformance`: what the installed runtime does with each operator that generation stands on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from genai.cli import options
from genai.cli.bars import bars
from genai.cli.table import table
from genai.errors import ConfigError

if TYPE_CHECKING:
    from genai.conformance.check import Matrix


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
    """Try each operator that generation stands on: has it a kernel, is it right, does it write in place.

    Every input and attribute, opset and type has a row; each is compared with onnx.reference or NumPy. Rows run in a
    process of their own: one that crashes is told of as such.
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
    from genai.conformance.report import HEADER, facts, lines

    header = (*HEADER, *(("8 × capacity", "32 × valid") if matrix.has_timings else ()))
    parts = ["\n".join(f"{name}: {value}" for name, value in facts(matrix).items())]
    for name, rows in lines(matrix):
        cut = [(*row[:4], row[4] if len(row[4]) <= _WIDTH else f"{row[4][: _WIDTH - 1]}…", *row[5:]) for row in rows]
        parts.append(f"{name}\n{table(header, cut)}")
    if matrix.unknown:
        parts.append(f"no rows for: {', '.join(matrix.unknown)}")
    if matrix.has_timings:
        parts.append("Times are ratios of medians within one run, interleaved, of one thread: believe factors of two.")
    return "\n\n".join(parts)


_WIDTH = 70
"""Of what the runtime said; all of it is in the JSON and on the page."""
