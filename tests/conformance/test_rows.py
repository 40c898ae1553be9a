"""The rows are all there: every input and attribute of every operator, at every version, in every type."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx.defs
import pytest

from genai.conformance import Case, all_cases
from genai.conformance.oracles import ORACLES, expected
from genai.conformance.untried import UNTRIED
from genai.runtime.ort import import_onnxruntime

CASES = all_cases()
BY_NAME = {case.name: case for case in CASES}
LOCK = Path(__file__).parents[2] / "deploy" / "locks" / "dev.txt"


def test_names_are_different() -> None:
    assert [name for name, count in Counter(case.name for case in CASES).items() if count > 1] == []


def parts(domain: str, operator: str) -> tuple[list[str], list[str], set[str]]:
    """(inputs, outputs, attributes) by an operator's schema: the standard's, or the installed runtime's."""
    if domain == "com.microsoft":
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        (schema,) = (each for each in state.get_all_operator_schema() if (each.domain, each.name) == (domain, operator))
    else:
        schema = onnx.defs.get_schema(operator, 28, "" if domain == "ai.onnx" else domain)
    return [each.name for each in schema.inputs], [each.name for each in schema.outputs], set(schema.attributes)


def by_operator(cases: Iterable[Case]) -> dict[tuple[str, str], list[Case]]:
    found = defaultdict(list)
    for case in cases:
        found[case.domain, case.operator].append(case)
    return found


@pytest.mark.parametrize(("domain", "operator"), by_operator(CASES), ids=str)
def test_every_input_and_attribute(domain: str, operator: str) -> None:
    """Each is in some row, or is listed with the reason why not; what is listed is in none."""
    pinned = re.search(r"^onnxruntime==(\S+)", LOCK.read_text(encoding="utf-8"), re.MULTILINE)
    if domain == "com.microsoft" and (pinned is None or import_onnxruntime().__version__ != pinned[1]):
        pytest.skip("another runtime than the pinned one")
    inputs, outputs, attributes = parts(domain, operator)
    tried: set[str] = set()
    for case in by_operator(CASES)[domain, operator]:
        tried |= {name for name, given in zip(inputs, case.inputs, strict=False) if given is not None}
        tried |= {name for name, asked in zip(outputs, case.outputs, strict=False) if asked}
        tried |= set(case.attributes)
    listed = {name for names in UNTRIED.get((domain, operator), {}).values() for name in names}  # type: ignore[call-overload]
    assert {*inputs, *outputs, *attributes} - tried == listed


@pytest.mark.parametrize(("domain", "operator"), by_operator(CASES), ids=str)
def test_every_version_and_type(domain: str, operator: str) -> None:
    """Each version of an operator since opset 23 has rows in the three types that decoders are run in."""
    seen = {(case.opset, case.dtype) for case in by_operator(CASES)[domain, operator]}
    opsets = {opset for opset, _ in seen}
    if domain == "ai.onnx":
        since = {onnx.defs.get_schema(operator, opset).since_version for opset in range(min(opsets), 29)}
        assert since <= opsets
        assert 28 in opsets
    if domain != "ai.onnx.preview":
        types = {"float32", "float16", "bfloat16"}
        assert {(opset, dtype) for opset in opsets for dtype in types} <= seen


def test_every_oracle_is_used() -> None:
    assert {case.oracle for case in CASES} == {"onnx.reference", *ORACLES}


def test_oracles_know_every_output() -> None:
    """What a row asks for is a number wherever it is compared, but what is hidden from a query."""
    for case in CASES:
        if case.dtype != "float32" or case.what.startswith("stash_type"):
            continue
        for name, array in expected(case).items():
            assert np.isfinite(array).any(), (case.name, name)
            assert not np.isposinf(array).any(), (case.name, name)
