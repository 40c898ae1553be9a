"""Health, readiness, models, metrics and status."""

from __future__ import annotations

import asyncio

import pytest

from genai.errors import ConfigError
from server.app import LazyApp, create_app
from server.settings import Settings
from tests.server.fakes import FakeModel, app_with, said, serving

pytestmark = pytest.mark.anyio


async def test_the_usual_paths() -> None:
    async with serving(app_with(FakeModel())) as http:
        assert (await http.get("/health")).json() == {"status": "ok"}
        assert (await http.get("/ready")).json() == {"status": "ready", "models": {"fake": "ready"}}
        page = await http.get("/")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert page.headers["content-security-policy"] == "frame-ancestors 'none'"
        (model,) = (await http.get("/v1/models")).json()["data"]
        assert (model["id"], model["object"], model["state"], model["max_model_len"]) == ("fake", "model", "ready", 64)
        assert (await http.get("/v1/models/fake")).json() == model
        assert (await http.get("/v1/models/none")).status_code == 404


async def test_paths_and_methods_that_are_not_there() -> None:
    async with serving(app_with(FakeModel())) as http:
        answer = await http.get("/v2/models")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "unknown_url")
        answer = await http.get("/v1/chat/completions")
        assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
        answer = await http.post("/v1/chat/completions/", json={})
        assert answer.status_code == 400, "no redirect: a client would lose its body"


async def test_draining() -> None:
    app = app_with(FakeModel())
    async with serving(app) as http:
        app.state.server.lifecycle.drain()
        ready = await http.get("/ready")
        assert (ready.status_code, ready.json()["status"]) == (503, "draining")
        for answer in (await http.get("/v1/models"), await http.post("/v1/chat/completions", json={})):
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "shutting_down")
            assert answer.headers["connection"] == "close"
        assert (await http.get("/health")).status_code == 200
        assert (await http.get("/metrics")).status_code == 200


async def test_draining_waits_for_what_was_accepted() -> None:
    model, go_on = FakeModel(), asyncio.Event()
    model.will_say(go_on, *said("late"))
    app = app_with(model, drain_timeout=3600)
    lifecycle = app.state.server.lifecycle
    async with serving(app) as http:
        body = {"messages": [{"role": "user", "content": "Hi"}]}
        answering = asyncio.create_task(http.post("/v1/chat/completions", json=body))
        while not model.submissions:
            await asyncio.sleep(0)
        lifecycle.drain()
        assert (lifecycle.num_active, lifecycle.is_over, lifecycle.is_overdue) == (1, False, False)
        go_on.set()
        assert (await answering).json()["choices"][0]["message"]["content"] == "late"
        assert (lifecycle.num_active, lifecycle.is_over) == (0, True)


async def test_status_and_metrics() -> None:
    model = FakeModel()
    model.llm.metrics.saw_first_token(0.1)
    model.llm.metrics.saw_admission(0.1, 40, 32)
    async with serving(app_with(model)) as http:
        status = (await http.get("/v1/status")).json()
        text = (await http.get("/metrics")).text
    assert (status["status"], status["running"], status["waiting"]) == ("ready", 0, 0)
    assert status["rows"] == [{"valid": 40, "capacity": 48, "state_bytes": 64}]
    assert status["cache"] == {"used_bytes": 320, "idle_rows": 2, "idle_bytes": 400, "total_bytes": 4096}
    assert status["prefix_cache"] == {"prompt_tokens": 40, "hits": 32, "bytes": 256, "snapshots": 3}
    assert status["models"]["fake"]["generated_tokens"] == 1
    assert status["models"]["fake"]["same_bits"] == "kept"
    assert status["tokens_per_second"] > 0
    assert 'genai_generated_tokens_total{model="fake"} 1.0' in text
    assert 'genai_http_requests_total{method="GET",route="/v1/status",status="200"} 1.0' in text


async def test_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENAI_API_KEYS", "k")
    async with serving(app_with(FakeModel())) as http:
        open_paths = ["/", "/health", "/ready", "/metrics"]
        assert [(await http.get(path)).status_code for path in open_paths] == [200] * 4
        closed = ["/v1/models", "/v1/status", "/openapi.json", "/tokenize", "/nothing"]
        assert [(await http.get(path)).status_code for path in closed] == [401] * 5
        assert (await http.get("/v1/models", headers={"authorization": "Bearer k"})).status_code == 200
    async with serving(app_with(FakeModel(), open_paths=["/health"])) as http:
        assert [(await http.get(path)).status_code for path in open_paths] == [401, 200, 401, 401]


async def test_cors() -> None:
    async with serving(app_with(FakeModel(), cors_origins=["https://a.example"])) as http:
        ask = {"origin": "https://a.example", "access-control-request-method": "POST"}
        answer = await http.options("/v1/chat/completions", headers=ask)
        assert answer.headers["access-control-allow-origin"] == "https://a.example"
        answer = await http.get("/v1/models/none", headers={"origin": "https://a.example"})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (404, "https://a.example")
        answer = await http.get("/v1/models", headers={"origin": "https://b.example"})
        assert "access-control-allow-origin" not in answer.headers


async def test_cors_preflight_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENAI_API_KEYS", "k")
    async with serving(app_with(FakeModel(), cors_origins=["*"])) as http:
        ask = {"origin": "https://a.example", "access-control-request-method": "POST"}
        assert (await http.options("/v1/chat/completions", headers=ask)).status_code == 200


def test_an_open_server_without_keys_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    app_with(FakeModel(), host="0.0.0.0")
    assert "anyone who reaches 0.0.0.0" in caplog.text
    caplog.clear()
    app_with(FakeModel())
    assert not caplog.text


def test_without_a_model_there_is_no_application() -> None:
    with pytest.raises(ConfigError, match="no model to serve"):
        create_app(Settings())


async def test_the_lazy_application_reads_the_environment_when_it_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = LazyApp()
    monkeypatch.setenv("GENAI_SERVER_PORT", "no number")
    with pytest.raises(ConfigError, match="GENAI_SERVER_PORT"):
        await lazy({"type": "http", "path": "/", "headers": []}, None, None)  # type: ignore[arg-type]
