"""A matrix for people and for programs: lines of a table, JSON, Markdown, and a page of its own."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from genai.conformance.check import Matrix, Row
from genai.conformance.probe import Result
from genai.conformance.untried import UNTRIED
from genai.inspect.rendering import rendered

HEADER = ("", "opset", "type", "how", "result", "one buffer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Rows that differ in their opset alone. opset: all of theirs; result: with the largest error of theirs."""

    what: str
    opset: str
    dtype: str
    result: Result

    @property
    def cells(self) -> tuple[str, ...]:
        """As `HEADER` has them."""
        return (self.what, self.opset, self.dtype, how(self.result), told(self.result), self.result.loop or "–")


def page(matrix: Matrix) -> str:
    """One self-contained HTML page without scripts."""
    return rendered(
        "conformance.html",
        matrix=matrix,
        name=f"{matrix.runtime}: what it does with generation's operators",
        facts=facts(matrix),
        groups=list(lines(matrix)),
    )


def facts(matrix: Matrix) -> dict[str, str]:
    """What was looked at, and how much of it is what."""
    counted = Counter(row.result.how for row in matrix.rows)
    verdicts = Counter(row.result.verdict for row in matrix.rows)
    return {
        "Runtime": matrix.runtime,
        "Provider": matrix.provider,
        "Reference": f"onnx {matrix.onnx}",
        "Rows": str(len(matrix.rows)),
        "With a kernel": str(counted["kernel"]),
        "Inlined": str(counted["inlined"]),
        "Failing": str(counted["failing"]),
        "Differing from the reference": str(verdicts["differs"]),
        "Without a reference": str(verdicts["unchecked"]),
    }


def lines(matrix: Matrix) -> Iterator[tuple[str, list[Line]]]:
    """(operator, its lines): rows whose opset makes no difference are one."""
    for name, rows in groupby(matrix.rows, key=lambda row: f"{row.case.domain} {row.case.operator}"):
        merged: dict[tuple[object, ...], list[Row]] = {}
        for row in rows:
            merged.setdefault(_alike(row), []).append(row)
        yield name, [_line(each) for each in merged.values()]


def _alike(row: Row) -> tuple[object, ...]:
    """What rows of one line have in common: all but the opset, and how much is rounded."""
    found = row.result
    return (row.case.what, row.case.dtype, how(found), found.verdict, found.message, found.loop, str(found.growth))


def _line(rows: list[Row]) -> Line:
    case, errors = rows[0].case, [row.result.error for row in rows if row.result.error is not None]
    result = dataclasses.replace(rows[0].result, error=max(errors, default=None))
    return Line(what=case.what, opset=", ".join(map(_opset, rows)), dtype=case.dtype, result=result)


def _opset(row: Row) -> str:
    return str(row.case.opset) if row.case.domain != "com.microsoft" else "–"


def how(result: Result) -> str:
    """Kernel, inlined into how many nodes, or failing."""
    where = " (partly on the CPU)" if result.is_partly_on_cpu else ""
    if result.how == "inlined":
        return f"inlined, {result.num_nodes} nodes{where}"
    if result.how == "kernel" and result.others:
        return f"kernel with {', '.join(f'{count} {kind}' for kind, count in result.others.items())}{where}"
    return f"{result.how}{where}"


def told(result: Result) -> str:
    """Right or not and by how much, or what the runtime said."""
    if result.error is None:
        return result.message
    if result.error >= 1:  # memory that is not the row's is other numbers each time
        return f"{result.verdict} (by all)"
    return f"{result.verdict} ({result.error:.0e})" if result.error else result.verdict


def markdown(matrix: Matrix) -> str:
    """The tables of docs/operators.md, and what no row is about."""
    parts = [f"{', '.join(f'{name.lower()}: {value}' for name, value in facts(matrix).items())}.\n"]
    for name, its in lines(matrix):
        rows = [HEADER, ("---",) * len(HEADER), *(line.cells for line in its)]
        table = "".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |\n" for row in rows)
        parts.append(f"### {name}\n\n{table}")
    listed = [
        f"- {domain} {operator}: {', '.join(f'`{name}`' for name in names)} – {reason}.\n"
        for (domain, operator), reasons in UNTRIED.items()
        for reason, names in reasons.items()
    ]
    return "\n".join([*parts, f"### What no row is about\n\n{''.join(listed)}"])


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
