"""The rows that a model depends on: of its own operators, at its own opset."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx.defs

from genai.conformance import all_cases
from genai.conformance.case import Case
from genai.inspect import inspect

_GENERATIVE = {(case.domain, case.operator) for case in all_cases()}


def cases_of(path: Path) -> tuple[list[Case], list[str]]:
    """(the rows of the operators in a package or an .onnx file, at its opset; those of other domains without rows).

    Standard operators that every runtime has, Add and its like, have no rows and are not told.
    Raises: ModelNotFoundError; ContractError if the file is not a readable ONNX model.
    """
    report = inspect(path)
    used = {(domain, kind) for domain, kinds in report.operators.items() for kind in kinds}
    opset = int(report.opsets.get("ai.onnx", 1))
    wanted = [case for case in all_cases() if (case.domain, case.operator) in used and _is_same(case, opset)]
    unknown = sorted(f"{domain}.{kind}" for domain, kind in used - _GENERATIVE if domain != "ai.onnx")
    return _nearest(wanted), unknown


def _is_same(case: Case, opset: int) -> bool:
    """Whether a row's operator is the one that a model at this opset has."""
    return case.domain != "ai.onnx" or _since(case.operator, case.opset) == _since(case.operator, opset)


def _since(operator: str, opset: int) -> int:
    """The opset that last changed an operator; 0 before there was one."""
    try:
        return int(onnx.defs.get_schema(operator, opset).since_version)
    except onnx.defs.SchemaError:
        return 0


def _nearest(cases: Iterable[Case]) -> list[Case]:
    """Each kind of row once, at its lowest opset."""
    found: dict[tuple[str, str, str, str], Case] = {}
    for case in cases:
        found.setdefault((case.domain, case.operator, case.what, case.dtype), case)
    return list(found.values())
