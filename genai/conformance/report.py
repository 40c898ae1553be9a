"""A matrix for people and for programs: rows of a table, JSON, Markdown, and a page of its own."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator
from itertools import groupby

from genai.conformance.check import Matrix, Row
from genai.inspect.rendering import rendered

HEADER = ("", "opset", "type", "how", "result", "one buffer")


def page(matrix: Matrix) -> str:
    """One self-contained HTML page without scripts."""
    return rendered(
        "conformance.html",
        matrix=matrix,
        name=f"{matrix.runtime}: what it does with generation's operators",
        facts=facts(matrix),
        groups=list(_groups(matrix)),
        how=how,
        result=result,
    )


def facts(matrix: Matrix) -> dict[str, str]:
    """What was looked at, and how much of it is what."""
    counted = Counter(row.result.how for row in matrix.rows)
    differing = sum(row.result.verdict == "differs" for row in matrix.rows)
    return {
        "Runtime": matrix.runtime,
        "Provider": matrix.provider,
        "Reference": f"onnx {matrix.onnx}",
        "Rows": str(len(matrix.rows)),
        "With a kernel": str(counted["kernel"]),
        "Inlined": str(counted["inlined"]),
        "Failing": str(counted["failing"]),
        "Differing from the reference": str(differing),
    }


def lines(matrix: Matrix) -> Iterator[tuple[str, list[tuple[str, ...]]]]:
    """(operator, its rows as cells under `HEADER`), and growth behind them where it was looked at."""
    for name, rows in _groups(matrix):
        yield name, [_cells(row, matrix) for row in rows]


def how(row: Row) -> str:
    """Kernel, inlined into how many nodes, or failing."""
    told = row.result
    where = " (partly on the CPU)" if told.is_partly_on_cpu else ""
    if told.how == "inlined":
        return f"inlined, {told.num_nodes} nodes{where}"
    if told.how == "kernel" and told.others:
        return f"kernel with {', '.join(f'{count} {kind}' for kind, count in told.others.items())}{where}"
    return f"{told.how}{where}"


def result(row: Row) -> str:
    """Right or not and by how much, or what the runtime said."""
    told = row.result
    if told.error is None:
        return told.message
    return f"{told.verdict} ({told.error:.0e})" if told.error else told.verdict


def markdown(matrix: Matrix) -> str:
    """The tables of docs/operators.md."""
    parts = [f"{', '.join(f'{name.lower()}: {value}' for name, value in facts(matrix).items())}.\n"]
    for name, rows in lines(matrix):
        told = [HEADER, ("---",) * len(HEADER), *rows]
        table = "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in told)
        parts.append(f"### {name}\n\n{table}")
    return "\n".join(parts)


def as_json(matrix: Matrix) -> dict[str, object]:
    """All of it, for programs."""
    return {
        "runtime": matrix.runtime,
        "provider": matrix.provider,
        "onnx": matrix.onnx,
        "unknown": list(matrix.unknown),
        "rows": [
            {
                "name": row.case.name,
                "domain": row.case.domain,
                "operator": row.case.operator,
                "what": row.case.what,
                "opset": row.case.opset,
                "type": row.case.dtype,
                "oracle": row.case.oracle,
                "verdict": row.result.verdict,
                **dataclasses.asdict(row.result),
                "error": row.result.error if row.result.error != math.inf else None,  # JSON has no infinity
            }
            for row in matrix.rows
        ],
    }


def _groups(matrix: Matrix) -> Iterator[tuple[str, list[Row]]]:
    for name, rows in groupby(matrix.rows, key=lambda row: f"{row.case.domain} {row.case.operator}"):
        yield name, list(rows)


def _cells(row: Row, matrix: Matrix) -> tuple[str, ...]:
    opset = str(row.case.opset) if row.case.domain == "ai.onnx" else "–"
    cells = (row.case.what, opset, row.case.dtype, how(row), result(row), row.result.loop or "–")
    if not matrix.has_timings:
        return cells
    growth = row.result.growth
    return (*cells, *(f"{growth[name]:.1f} ×" if growth else "" for name in ("capacity", "valid")))
