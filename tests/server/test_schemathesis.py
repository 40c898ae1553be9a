"""Requests made up from the OpenAPI document: every answer is one that it announces, and none is a 5xx.

A long run: `genai serve PACKAGE`, and `schemathesis run http://127.0.0.1:8000/openapi.json -n 500`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import checks
from schemathesis.core.errors import InvalidSchema
from schemathesis.schemas import BaseSchema

from tests.server.live import live_server
from tests.tiny_package import tiny_package


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BaseSchema]:
    package: Path = tiny_package(tmp_path_factory.mktemp("schemathesis") / "tiny")
    with live_server({"tiny": package}, default_max_tokens=2, request_timeout=5) as live:
        yield schemathesis.openapi.from_url(f"{live.url}/openapi.json")


CHECKS = [
    checks.not_a_server_error,
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
]
MODES = [schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE]


@pytest.mark.long
@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.value)
def test_every_answer_is_announced(api: BaseSchema, mode: schemathesis.GenerationMode) -> None:
    num_answers = 0

    def answered(case: schemathesis.Case) -> None:
        nonlocal num_answers
        case.call_and_validate(checks=CHECKS)
        num_answers += 1

    few = settings(
        max_examples=8, derandomize=True, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )
    for result in api.get_all_operations():
        try:
            few(given(case=result.ok().as_strategy(generation_mode=mode))(answered))()
        except (Unsatisfiable, InvalidSchema):
            assert mode is schemathesis.GenerationMode.NEGATIVE, "without fields nothing can be wrong"
    assert num_answers >= 40
