"""The OpenAPI document is true: every endpoint is in it, and every field says what it is."""

from __future__ import annotations

import functools
import json

import pytest
from fastapi.routing import APIRoute

from genai.answer.tool_calls import ToolCall
from genai.decoding.logprobs import TokenLogprob
from server.routes.pages import docs_page
from server.schemas.chat import ChatCompletion
from server.schemas.completions import Completion
from tests.server.fakes import FakeModel, app_with, choice, chunk, generation, serving

pytestmark = pytest.mark.anyio


@functools.cache
def document() -> dict[str, dict[str, dict[str, dict[str, object]]]]:
    return json.loads(json.dumps(app_with(FakeModel()).openapi()))


def test_every_endpoint_tells_its_errors() -> None:
    paths = document()["paths"]
    assert paths.keys() >= {"/v1/chat/completions", "/v1/completions", "/v1/models", "/tokenize", "/v1/status"}
    for path, operations in paths.items():
        for method, operation in operations.items():
            responses = operation["responses"]
            assert isinstance(responses, dict)
            assert "422" not in responses, "400 is what a bad field gets"
            if path not in ("/health", "/ready", "/metrics"):
                assert responses.keys() >= {"401", "403", "413", "429", "503"}, (method, path)


def test_generating_endpoints_tell_of_their_streams() -> None:
    for path in ("/v1/chat/completions", "/v1/completions"):
        content = document()["paths"][path]["post"]["responses"]["200"]["content"]  # type: ignore[index,call-overload]
        assert set(content) == {"application/json", "text/event-stream"}


def test_extensions_are_marked() -> None:
    fields = document()["components"]["schemas"]["ChatRequest"]["properties"]
    for name in ("top_k", "min_p", "typical_p", "repetition_penalty", "regex", "grammar", "choices"):
        assert str(fields[name]["description"]).startswith("Extension."), name  # type: ignore[index]


async def test_whole_replies_are_as_described() -> None:
    entries = (TokenLogprob(token_id=ord("a"), logprob=-0.5, top=((ord("b"), float("-inf")),)),)
    call = ToolCall(id="call_1", name="add", arguments="{}")
    told = choice("a", logprobs=entries, reasoning="hm", tool_calls=(call,))
    whole = generation(told, prompt_logprobs=[None, *entries])
    model = FakeModel()
    async with serving(app_with(model)) as http:
        for path, body, kind in (
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}]}, ChatCompletion),
            ("/v1/completions", {"prompt": "Hi", "echo": True, "logprobs": 1}, Completion),
        ):
            model.will_say(chunk(finish_reason="stop", result=whole))
            answer = await http.post(path, json=body)
            assert kind.model_validate_json(answer.content).model_dump(mode="json") == answer.json()


async def test_the_page() -> None:
    app = app_with(FakeModel())
    async with serving(app) as http:
        answer = await http.get("/docs")
        assert answer.status_code == 200
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert "<script" not in answer.text
        assert "POST /v1/chat/completions" in answer.text
        assert "repetition_penalty" in answer.text
        assert (await http.get("/openapi.json")).json()["openapi"].startswith("3.")
    evil = {"<img>": {"get": {"description": "<b>", "responses": {"200": {"description": "<i>"}}}}}
    html = docs_page({"paths": evil, "components": {"schemas": {}}})
    assert "<img>" not in html
    assert "<i>" not in html


def test_routes_that_take_a_body_read_it_strictly() -> None:
    from server.app import ROUTERS
    from server.body import StrictRoute

    for router in ROUTERS:
        for route in router.routes:
            if isinstance(route, APIRoute) and route.body_field is not None:
                assert isinstance(route, StrictRoute), route.path
