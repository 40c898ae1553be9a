"""Bodies that nobody should send: each is refused, and the server goes on."""

from __future__ import annotations

import json
import time
from typing import cast

import httpx
import pytest

from server.body import read_json
from server.errors import ApiError
from server.receiving import MAX_VALUES
from server.routes import adapters, models
from tests.server.fakes import FakeModel, app_with, said, serving

pytestmark = pytest.mark.anyio

PATHS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/responses",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/embeddings",
    "/v1/rerank",
    "/embedding",
    "/api/embed",
    "/api/embeddings",
    "/tokenize",
    "/detokenize",
    "/completion",
    "/infill",
    "/apply-template",
    "/api/chat",
    "/api/generate",
    "/api/show",
)
NOT_JSON = {
    "nothing": b"",
    "text": b"hello",
    "cut off": b'{"prompt": "a',
    "trailing": b'{"prompt": "a"} x',
    "NaN": b'{"prompt": "a", "temperature": NaN}',
    "infinity": b'{"prompt": "a", "temperature": -Infinity}',
    "invalid UTF-8": b'{"prompt": "\xff\xfe"}',
    "overlong UTF-8": b'{"prompt": "\xc0\x80"}',
    "surrogates in UTF-8": b'{"prompt": "\xed\xa0\x80"}',
    "lone surrogate": b'{"prompt": "\\ud800"}',
    "reversed surrogates": b'{"prompt": "\\udc00\\ud800"}',
    "UTF-16": '{"prompt": "a"}'.encode("utf-16"),
    "control character": b'{"prompt": "a\x00"}',
    "deep lists": b"[" * 100_000,
    "deep objects": b'{"a":' * 50_000,
    "deep and whole": b"[" * 1000 + b"]" * 1000,
    "endless number": b'{"seed": 1' + b"0" * 10_000 + b"}",
}
DEEP_BLOCKS = '[{"type": "tool_result", "content": ' * 60 + "1" + "}]" * 60
WRONG = {
    "list": [],
    "null": None,
    "number": 5,
    "string": "x",
    "too large": {"prompt": 1e999, "messages": 1e999, "input": 1e999, "tokens": [1e999]},
    "huge integer": {"prompt": [10**300], "messages": 10**300, "input": 10**300, "tokens": [10**300]},
    "ten thousand fields": {f"f{n}": n for n in range(10_000)},
    "deep contents": {
        "messages": [
            {"role": "user", "content": json.loads('[{"type": "tool_result", "content": ' * 60 + "1" + "}]" * 60)}
        ]
    },
    "many items": {"input": [{"type": "function_call"}] * 10_000, "messages": [{"role": "user"}] * 10_000},
    "many tools": {"tools": [{"type": "function", "name": "f"}] * 10_000, "system": [{}] * 80_000},
    "many nothings": {"prompt": [{}] * 80_000, "messages": [{}] * 80_000, "tokens": [{}] * 80_000},
    "many strings": {"stop": ["x"] * 100_000},
    "deep schema": {"response_format": json.loads('{"a":' * 150 + "1" + "}" * 150)},
}

LONG_LISTS = (
    ("/v1/chat/completions", b'{"messages":['),
    ("/v1/completions", b'{"prompt":['),
    ("/v1/responses", b'{"input":['),
    ("/v1/messages", b'{"messages":['),
    ("/v1/messages/count_tokens", b'{"system":['),
    ("/tokenize", b'{"messages":['),
    ("/detokenize", b'{"tokens":['),
    ("/completion", b'{"prompt":['),
    ("/infill", b'{"input_extra":['),
    ("/apply-template", b'{"messages":['),
    ("/api/chat", b'{"messages":['),
    ("/api/generate", b'{"images":['),
)


def error_of(answer: httpx.Response) -> dict[str, str]:
    """An error's parts; Ollama's are a message alone."""
    error = answer.json()["error"]
    return {"type": "invalid_request_error", "message": error} if isinstance(error, str) else error


def test_every_path_is_there() -> None:
    """What only administrators may do is refused without a look at the body; calling off has none."""
    document = cast(dict[str, dict[str, object]], app_with(FakeModel()).openapi())
    posted = {path for path, methods in document["paths"].items() if "post" in cast(dict[str, object], methods)}
    assert posted == {*PATHS, *models.ADMIN_PATHS, *adapters.ADMIN_PATHS, "/v1/responses/{response_id}/cancel"}


@pytest.mark.parametrize("name", NOT_JSON)
async def test_what_is_not_json(name: str) -> None:
    async with serving(app_with(FakeModel())) as http:
        for path in PATHS:
            answer = await http.post(path, content=NOT_JSON[name], headers={"content-type": "application/json"})
            assert answer.status_code == 400, answer.text
            assert error_of(answer)["type"] == "invalid_request_error"
            assert error_of(answer).get("code", "invalid_json") == "invalid_json"


@pytest.mark.parametrize("name", WRONG)
async def test_json_of_the_wrong_form(name: str) -> None:
    body = json.dumps(WRONG[name]).replace("Infinity", "1e999").encode()
    async with serving(app_with(FakeModel())) as http:
        for path in PATHS:
            answer = await http.post(path, content=body, headers={"content-type": "application/json"})
            assert answer.status_code == 400, answer.text
            assert len(answer.content) < 1000


async def test_refusing_costs_little() -> None:
    """A body of the most values, all of them wrong, must not keep the event loop busy."""
    async with serving(app_with(FakeModel())) as http:
        for path, start in LONG_LISTS:
            content = start + b"{}," * (MAX_VALUES // 2 - 10) + b"0]}"
            started = time.process_time()
            answer = await http.post(path, content=content, headers={"content-type": "application/json"})
            assert answer.status_code == 400
            assert time.process_time() - started < 5  # about 0.2 s; unbounded it takes minutes


async def test_bodies_that_are_too_long() -> None:
    async with serving(app_with(FakeModel(), max_body_bytes=1 << 20)) as http:
        for path in PATHS:
            answer = await http.post(path, json={"prompt": "x" * 2_000_000})
            assert answer.status_code == 413
            assert "1048576" in error_of(answer)["message"]


@pytest.mark.parametrize(
    "content_type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "application/jsonx"]
)
async def test_other_content_types(content_type: str) -> None:
    """A page of another origin can send these without asking the server first."""
    async with serving(app_with(FakeModel())) as http:
        headers = {"content-type": content_type} if content_type else {}
        for path in PATHS:
            answer = await http.post(path, content=b'{"prompt": "a"}', headers=headers)
            assert answer.status_code == 415
            assert "must be 'application/json'" in error_of(answer)["message"]


@pytest.mark.parametrize("content_type", ["application/json", "Application/JSON; charset=utf-8", "application/x+json"])
def test_content_types_of_json(content_type: str) -> None:
    assert read_json(b'{"a": [1, "\\u00e9\\ud83d\\ude00"]}', content_type) == {"a": [1, "é😀"]}


def test_the_last_of_two_values_counts() -> None:
    assert read_json(b'{"a": 1, "a": 2}', "application/json") == {"a": 2}


def test_errors_of_reading_show_no_body() -> None:
    with pytest.raises(ApiError) as caught:
        read_json(b'{"secret": "value", }', "application/json")
    assert "secret" not in caught.value.message


async def test_after_all_that_it_serves() -> None:
    model = FakeModel()
    async with serving(app_with(model)) as http:
        for content in NOT_JSON.values():
            await http.post("/v1/completions", content=content, headers={"content-type": "application/json"})
        model.will_say(*said("still here"))
        answer = await http.post("/v1/completions", json={"prompt": "\x00 \u2028 😀"})
        assert answer.json()["choices"][0]["text"] == "still here"
        assert model.submissions[0].prompt == "\x00 \u2028 😀"
