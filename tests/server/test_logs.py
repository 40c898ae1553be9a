"""The log: one line a record, ids of requests, and nothing that is secret."""

from __future__ import annotations

import json
import logging

import httpx
import pytest
from starlette.types import Receive, Scope, Send

from server.context import request_context, request_info
from server.errors import ApiError, ClientGoneError, send_error
from server.logs import ConsoleFormatter, JsonFormatter, RequestMiddleware
from server.metrics import HttpMetrics


def record(message: str = "hi", **more: object) -> logging.LogRecord:
    made = logging.LogRecord("server.x", logging.INFO, "file", 1, message, None, None)
    made.__dict__.update(more)
    return made


def test_json_lines() -> None:
    line = JsonFormatter().format(record("two\nlines é", fields={"status": 200}))
    assert "\n" not in line
    entry = json.loads(line)
    assert entry.pop("time").endswith("Z")
    assert entry == {"level": "info", "logger": "server.x", "message": "two\nlines é", "status": 200}
    with request_context("abc"):
        assert json.loads(JsonFormatter().format(record()))["request_id"] == "abc"
    try:
        raise ValueError("bad")
    except ValueError as error:
        failed = record(exc_info=(type(error), error, error.__traceback__))
    assert "ValueError: bad" in json.loads(JsonFormatter().format(failed))["exception"]


def test_console_lines() -> None:
    with request_context("abc"):
        line = ConsoleFormatter().format(record("two\nlines", fields={"status": 200}))
    assert line.endswith(" info    two\\nlines  request_id=abc status=200")


async def answer(scope: Scope, receive: Receive, send: Send) -> None:
    info = request_info()
    info.model, info.prompt_tokens = "m", 3
    if scope["path"] == "/refused":
        await send_error(ApiError(404, "no", code="none"), scope, receive, send)
    elif scope["path"] == "/gone":
        raise ClientGoneError
    elif scope["path"] == "/broken":
        raise ValueError("secret")
    else:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        if scope["path"] == "/torn":
            raise ValueError("secret")
        await send({"type": "http.response.body"})


async def ask(path: str, metrics: HttpMetrics | None = None, **headers: str) -> httpx.Response:
    app = RequestMiddleware(answer, metrics or HttpMetrics())
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
        return await http.get(path, headers=headers)


@pytest.mark.anyio
async def test_every_request_has_an_id() -> None:
    answers = [await ask("/fine"), await ask("/refused"), await ask("/broken")]
    ids = {answer.headers["x-request-id"] for answer in answers}
    assert len(ids) == 3
    assert (await ask("/fine", **{"x-request-id": "mine-1"})).headers["x-request-id"] == "mine-1"
    for bad in ("x" * 129, "a b", "a\tb", "é"):
        given = bad.encode()
        app = RequestMiddleware(answer, HttpMetrics())
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http:
            told = (await http.get("/", headers={b"x-request-id": given})).headers["x-request-id"]
        assert told.encode() != given
        assert len(told) == 32


@pytest.mark.anyio
async def test_what_nobody_caught_is_a_plain_500(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        response = await ask("/broken")
    assert response.status_code == 500
    assert "secret" not in response.text
    assert response.json()["error"]["code"] == "internal_error"
    assert "ValueError: secret" in caplog.text


@pytest.mark.anyio
async def test_one_line_for_each_request(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "server.access"):
        await ask("/fine?secret=1", authorization="Bearer secret")
        await ask("/refused")
        await ask("/line%0abreak")
        for path in ("/gone", "/torn"):
            with pytest.raises(AssertionError):  # httpx's transport insists on a whole answer
                await ask(path)
    lines = [each for each in caplog.records if each.name == "server.access"]
    assert [each.getMessage() for each in lines] == [
        "GET /fine",
        "GET /refused",
        "GET /line%0Abreak",
        "GET /gone",
        "GET /torn",
    ]
    fields = [each.__dict__["fields"] for each in lines]
    assert [each["status"] for each in fields] == [200, 404, 200, 499, 200]
    assert [each.get("error") for each in fields] == [None, "none", None, "client_gone", "internal_error"]
    assert all(each["model"] == "m" and each["prompt_tokens"] == 3 for each in fields)
    assert "secret" not in " ".join(JsonFormatter().format(each) for each in lines)


@pytest.mark.anyio
async def test_requests_are_counted() -> None:
    metrics = HttpMetrics()
    await ask("/fine", metrics)
    await ask("/refused", metrics)
    labels = {"method": "GET", "route": "other", "status": "404"}
    assert metrics.registry.get_sample_value("genai_http_requests_total", labels) == 1
    assert metrics.registry.get_sample_value("genai_http_requests_in_progress") == 0
