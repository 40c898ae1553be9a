"""One page of metrics for all models, and the meter of tokens."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from genai.metrics import EngineMetrics
from server.metrics import HttpMetrics, TokenMeter, collected, exposition


def test_a_metric_of_several_models_is_one_family() -> None:
    http, first, second = HttpMetrics(), EngineMetrics("a"), EngineMetrics('b"\n')
    http.saw_request("GET", "/health", 200, 0.1)
    http.saw_request("BREW", "/health", 405, 0.1)
    first.saw_first_token(0.2)
    second.saw_first_token(0.3)
    second.saw_first_token(0.3)
    text = exposition(collected([http.registry, first.registry, second.registry])).decode()
    assert text.count("# TYPE genai_generated_tokens_total counter") == 1
    families = {family.name: family for family in text_string_to_metric_families(text)}
    tokens = {sample.labels["model"]: sample.value for sample in families["genai_generated_tokens"].samples}
    assert {model: tokens[model] for model in ("a", 'b"\n')} == {"a": 1, 'b"\n': 2}
    requests = {sample.labels["method"] for sample in families["genai_http_requests"].samples if sample.labels}
    assert requests == {"GET", "other"}, "what clients make up must not become series"


def test_the_meter_tells_what_happened_lately() -> None:
    now = 100.0
    meter = TokenMeter(clock=lambda: now)
    assert meter.rate(0) == 0
    now = 102.0
    assert meter.rate(20) == 10
    for second in range(103, 120):
        now = float(second)
        rate = meter.rate(20 + 100 * (second - 102))
    assert rate == 100, "what was before the last seconds has been forgotten"
    now = 140.0
    assert meter.rate(1720) == 0
