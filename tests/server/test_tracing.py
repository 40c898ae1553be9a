"""Spans: one for each request, with what it was, and below the caller's."""

from __future__ import annotations

import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from genai.errors import RuntimeUnavailableError
from server import app as app_module
from tests.server.fakes import FakeModel, app_with, said, serving

pytestmark = pytest.mark.anyio


@pytest.fixture
def spans(monkeypatch: pytest.MonkeyPatch) -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()

    def provider(endpoint: str) -> TracerProvider:
        made = TracerProvider()
        made.add_span_processor(SimpleSpanProcessor(exporter))
        return made

    monkeypatch.setattr(app_module, "tracer_provider", provider)
    return exporter


async def test_a_request_is_a_span(spans: InMemorySpanExporter) -> None:
    model = FakeModel()
    model.will_say(*said("Hello"))
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    async with serving(app_with(model, otlp_endpoint="http://collector")) as http:
        headers = {"traceparent": parent, "x-request-id": "mine"}
        await http.post("/v1/completions", json={"prompt": "Hi"}, headers=headers)
        await http.get("/v1/models/none")
        done, failed = spans.get_finished_spans()
    assert done.name == "POST /v1/completions"
    assert f"{done.context.trace_id:032x}" == parent.split("-")[1]
    assert dict(done.attributes or {}) == {
        "http.request.method": "POST",
        "http.route": "/v1/completions",
        "http.response.status_code": 200,
        "gen_ai.request.model": "fake",
        "gen_ai.usage.input_tokens": 7,
        "gen_ai.usage.output_tokens": 5,
        "genai.request_id": "mine",
    }
    assert failed.attributes is not None
    assert failed.attributes["error.type"] == "model_not_found"
    assert failed.attributes["http.response.status_code"] == 404


async def test_without_an_endpoint_nothing_is_imported() -> None:
    async with serving(app_with(FakeModel())) as http:
        assert (await http.get("/health")).status_code == 200


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http", None)
    with pytest.raises(RuntimeUnavailableError, match=r"otlp_endpoint needs opentelemetry.*pip install '\.\[otel\]'"):
        app_with(FakeModel(), otlp_endpoint="http://127.0.0.1:1/v1/traces")
