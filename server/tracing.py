"""OpenTelemetry: one span for each request, if `otlp_endpoint` is set and the extra `otel` is installed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Receive, Scope, Send

from genai.extras import require
from server.context import request_info

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span


def tracer_provider(endpoint: str) -> TracerProvider:
    """What sends spans to a collector, in a thread of its own. Raises: RuntimeUnavailableError without the extra."""
    require("otel", "otlp_endpoint")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({"service.name": "genai"}))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(endpoint=endpoint)))
    return provider


class TracingMiddleware:
    """A span around each request, below the caller's if it names one (`traceparent`)."""

    def __init__(self, app: ASGIApp, provider: TracerProvider) -> None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._app = app
        self._tracer = provider.get_tracer("genai.server")
        self._propagator = TraceContextTextMapPropagator()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        from opentelemetry.trace import SpanKind

        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        caller = self._propagator.extract(headers)
        method = str(scope["method"])
        with self._tracer.start_as_current_span(method, context=caller, kind=SpanKind.SERVER) as span:
            try:
                await self._app(scope, receive, send)
            finally:
                _describe(span, scope, method)


def _describe(span: Span, scope: Scope, method: str) -> None:
    """What is known at the end, by OpenTelemetry's names for HTTP and for generative AI."""
    info = request_info()
    route = getattr(scope.get("route"), "path", None)
    if route:
        span.update_name(f"{method} {route}")
    attributes = {
        "http.request.method": method,
        "http.response.status_code": info.status,
        "http.route": route,
        "error.type": info.error,
        "gen_ai.request.model": info.model,
        "gen_ai.usage.input_tokens": info.prompt_tokens,
        "gen_ai.usage.output_tokens": info.completion_tokens,
        "genai.request_id": info.id,
    }
    span.set_attributes({name: value for name, value in attributes.items() if value is not None})
