"""Metrics of HTTP, and those of all models put together as one page for Prometheus."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)


class HttpMetrics:
    """Requests by method, route and status. Routes are templates, so that the number of series is bounded."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._requests = Counter(
            "genai_http_requests", "Requests answered", ["method", "route", "status"], registry=self.registry
        )
        self._duration = Histogram(
            "genai_http_request_duration_seconds",
            "Time from a request's arrival to the end of its answer",
            ["route"],
            registry=self.registry,
            buckets=_BUCKETS,
        )
        self._in_progress = Gauge("genai_http_requests_in_progress", "Requests being answered", registry=self.registry)

    def in_progress(self) -> AbstractContextManager[object]:
        """Count a request while it is being answered."""
        return self._in_progress.track_inprogress()

    def saw_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """A request was answered."""
        method = method if method in _METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._duration.labels(route).observe(seconds)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


def collected(registries: Iterable[CollectorRegistry]) -> list[Metric]:
    """What several registries have counted: a metric that several have is there once, with the samples of all."""
    merged: dict[str, Metric] = {}
    for registry in registries:
        for metric in registry.collect():
            known = merged.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            known.samples.extend(metric.samples)
    return list(merged.values())


def exposition(metrics: Sequence[Metric]) -> bytes:
    """Metrics as a page."""
    return generate_latest(_Page(metrics))


class _Page(Collector):
    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


class TokenMeter:
    """How fast a counter has grown lately."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._seen: deque[tuple[float, int]] = deque([(clock(), 0)])

    def rate(self, count: int) -> float:
        """Growth a second since about `_METER_SECONDS` ago, or since the last look if that is longer ago."""
        now = self._clock()
        self._seen.append((now, count))
        while len(self._seen) > 2 and now - self._seen[1][0] >= _METER_SECONDS:
            self._seen.popleft()
        then, before = self._seen[0]
        return (count - before) / (now - then) if now > then else 0.0


_METER_SECONDS = 5.0
