"""The rows that a model depends on: of its own operators, at its own opset."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import onnx
import onnx.defs

from genai.conformance import all_cases
from genai.conformance.case import Case, onnx_dtype
from genai.inspect import inspect

_GENERATIVE = {(case.domain, case.operator) for case in all_cases()}


def cases_of(path: Path) -> tuple[list[Case], list[str]]:
    """(the rows of the operators in a package or an .onnx file, at its opset and in its types; others without rows).

    Standard operators that every runtime has, Add and its like, have no rows and are not told.
    Raises: ModelNotFoundError; ContractError if the file is not a readable ONNX model.
    """
    report = inspect(path)
    used = {(domain, kind) for domain, kinds in report.operators.items() for kind in kinds}
    opset = int(report.opsets.get("ai.onnx", 1))
    types = _types(onnx.load(report.path, load_external_data=False))
    wanted = [
        case
        for case in all_cases()
        if (case.domain, case.operator) in used and onnx_dtype(case.dtype) in types and _is_same(case, opset)
    ]
    unknown = sorted(f"{domain}.{kind}" for domain, kind in used - _GENERATIVE if domain != "ai.onnx")
    return _nearest(wanted), unknown


def _types(model: onnx.ModelProto) -> set[int]:
    """The element types of a model's inputs, weights and casts."""
    types = {value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}
    types |= {tensor.data_type for tensor in model.graph.initializer}
    casts = [node for node in model.graph.node if node.op_type == "Cast"]
    return types | {attribute.i for node in casts for attribute in node.attribute if attribute.name == "to"}


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
